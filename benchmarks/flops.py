"""Floating-point operations of a training step, and what devices can do.

Model FLOPs utilisation is after Chowdhery et al., "PaLM" (arXiv 2204.02311,
appendix B): the operations that the model asks for, whatever was computed, per
second, of the peak of the device.
"""

import math

import keras

# Peak TFLOP/s of dense products, from NVIDIA's data sheets; figures that these
# give "with sparsity" are halved. By words that TensorFlow's name of the device
# holds, the first that fits: "float16" is fp16 and bf16 on tensor cores. None:
# the device does not compute it in hardware.
PEAKS = (
    # V100, DA-08617 (SXM2 and PCIe).
    (("V100", "SXM"), {"float16": 125, "bfloat16": None, "float32": 15.7}),
    (("V100",), {"float16": 112, "bfloat16": None, "float32": 14}),
    # T4, DA-09127.
    (("T4",), {"float16": 65, "bfloat16": None, "float32": 8.1}),
    # A100 data sheet (SXM and PCIe alike).
    (
        ("A100",),
        {"float16": 312, "bfloat16": 312, "tf32": 156, "float32": 19.5},
    ),
    # L4 and L40S data sheets.
    (
        ("L40S",),
        {"float16": 362, "bfloat16": 362, "tf32": 183, "float32": 91.6},
    ),
    (("L4",), {"float16": 121, "bfloat16": 121, "tf32": 60, "float32": 30.3}),
    # H100 data sheet: PCIe, NVL, SXM ("H100 80GB HBM3").
    (
        ("H100", "PCIe"),
        {"float16": 756, "bfloat16": 756, "tf32": 378, "float32": 51},
    ),
    (
        ("H100", "NVL"),
        {"float16": 835, "bfloat16": 835, "tf32": 417, "float32": 60},
    ),
    (
        ("H100",),
        {"float16": 989, "bfloat16": 989, "tf32": 494, "float32": 67},
    ),
    # H200 data sheet: NVL, SXM.
    (
        ("H200", "NVL"),
        {"float16": 835, "bfloat16": 835, "tf32": 417, "float32": 60},
    ),
    (
        ("H200",),
        {"float16": 989, "bfloat16": 989, "tf32": 494, "float32": 67},
    ),
)


def peak(device: str, precision: str) -> float | None:
    """Returns the peak FLOP/s of a device; None where none is known.

    Args:
        device: As TensorFlow names it, such as "NVIDIA A100-SXM4-40GB".
        precision: "float32", "tf32", "mixed_float16" or "mixed_bfloat16".
    """
    for words, tflops in PEAKS:
        if all(word in device for word in words):
            found = tflops.get(precision.removeprefix("mixed_"))
            return found and found * 1e12
    return None


def forward(layer: keras.layers.Layer) -> int:
    """Returns the operations of a layer on one image, forwards.

    Products and sums of convolutions and dense layers, 2 each; what else there
    is (activations, pooling, normalisation) is left out, as is usual.
    """
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        # Each value of the output is a sum over a window and its channels.
        kernel = layer.kernel.shape
        window = math.prod(kernel[:2])
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        channels = 1 if depthwise else kernel[2]
        return 2 * math.prod(layer.output.shape[1:]) * window * channels
    if isinstance(layer, keras.layers.SeparableConv2D):
        outputs = math.prod(layer.output.shape[1:3])
        depthwise = math.prod(layer.depthwise_kernel.shape)
        pointwise = math.prod(layer.pointwise_kernel.shape)
        return 2 * outputs * (depthwise + pointwise)
    if isinstance(layer, keras.layers.Dense):
        return 2 * math.prod(layer.kernel.shape)
    return 0


def of_step(model: keras.Model) -> int:
    """Returns the operations of a training step, of one image.

    All layers forwards. Backwards as many for the gradient of the weights of
    each layer that learns, and as many for the gradient of its input, where a
    layer before it learns.

    Args:
        model: Flat and in order, its `trainable` final, as
            `trainer.models.classifier` builds it.
    """
    total, reached = 0, False
    for layer in model.layers:
        operations = forward(layer)
        total += operations * (1 + bool(layer.trainable_weights) + reached)
        reached = reached or bool(layer.trainable_weights)
    return total
