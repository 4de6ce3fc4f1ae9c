"""The bases: what each network of keras.applications is called and expects.

Imports no TensorFlow, so that a wrong command fails at once.
"""

from typing import NamedTuple

# How pixels in [0, 255] become what a base expects; the first three are the
# modes of keras (`applications/imagenet_utils`).
PREPROCESSINGS = (
    "caffe",  # BGR less the ImageNet mean
    "tf",  # [-1, 1]
    "torch",  # [0, 1], less the ImageNet mean, over its standard deviation
    "rescale",  # [0, 1]
    "none",  # the base scales by itself
)


class Base(NamedTuple):
    """A network without its classifier.

    Attributes:
        application: Its name in `keras.applications`; "" is the small network
            of `trainer.models.classifier`, which has no weights to start from.
        preprocessing: What its ImageNet weights expect, of `PREPROCESSINGS`.
        min_size: Least width and height that it takes, in pixels.
        layers: Where fine-tuning may begin: every convolution of a plain
            network, the start of every stage or block of another, in order.
        finetune_from: The one of them where it begins unless told otherwise.
    """

    application: str
    preprocessing: str
    min_size: int
    layers: tuple[str, ...]
    finetune_from: str


def _vgg(*convolutions: int) -> tuple[str, ...]:
    return tuple(
        f"block{block}_conv{layer}"
        for block, count in enumerate(convolutions, start=1)
        for layer in range(1, count + 1)
    )


_RESNET = (
    "conv1_conv",
    *(f"conv{stage}_block1_1_conv" for stage in range(2, 6)),
)

BASES = {
    "vgg16": Base("VGG16", "caffe", 32, _vgg(2, 2, 3, 3, 3), "block5_conv1"),
    "vgg19": Base("VGG19", "caffe", 32, _vgg(2, 2, 4, 4, 4), "block5_conv1"),
    "resnet50": Base("ResNet50", "caffe", 32, _RESNET, _RESNET[-1]),
    "resnet101": Base("ResNet101", "caffe", 32, _RESNET, _RESNET[-1]),
    "resnet50_v2": Base(
        "ResNet50V2",
        "tf",
        32,
        (
            "conv1_conv",
            *(f"conv{stage}_block1_preact_bn" for stage in range(2, 6)),
        ),
        "conv5_block1_preact_bn",
    ),
    "xception": Base(
        "Xception",
        "tf",
        71,
        ("block1_conv1", *(f"block{n}_sepconv1" for n in range(2, 15))),
        "block14_sepconv1",
    ),
    # Its convolutions have numbers for names; the ends of its blocks have own.
    "inception_v3": Base(
        "InceptionV3",
        "tf",
        75,
        ("conv2d", *(f"mixed{n}" for n in range(10))),
        "mixed8",
    ),
    "mobilenet": Base(
        "MobileNet",
        "tf",
        32,
        ("conv1", *(f"conv_dw_{n}" for n in range(1, 14))),
        "conv_dw_12",
    ),
    "mobilenet_v2": Base(
        "MobileNetV2",
        "tf",
        32,
        ("Conv1", *(f"block_{n}_expand" for n in range(1, 17))),
        "block_14_expand",
    ),
    "densenet121": Base(
        "DenseNet121",
        "torch",
        32,
        ("conv1_conv", *(f"conv{n}_block1_0_bn" for n in range(2, 6))),
        "conv5_block1_0_bn",
    ),
    "efficientnet_v2_b0": Base(
        "EfficientNetV2B0",
        "none",
        32,
        (
            "stem_conv",
            *(f"block{n}a_expand_conv" for n in range(2, 7)),
        ),
        "block6a_expand_conv",
    ),
    # The published baseline, trained whole.
    "scratch": Base(
        "", "rescale", 46, tuple(f"conv{n}" for n in range(1, 5)), "conv1"
    ),
}
