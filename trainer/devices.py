"""Devices, distribution strategy, precision and seeds."""

import pathlib

import keras
import tensorflow as tf

from data_prep.errors import UsageError


def make_strategy(
    strategy: str, virtual_devices: int
) -> tf.distribute.Strategy:
    """Returns the strategy that a run trains under.

    Must be called before TensorFlow uses any device.

    Args:
        strategy: "auto" is "mirrored" where there is more than one device;
            "one_device" uses the first GPU, or the CPU; "mirrored" uses all
            GPUs, or all logical CPU devices.
        virtual_devices: Makes this many logical CPU devices and trains on
            them, to try several replicas without a GPU; 0 makes none.

    Raises:
        UsageError: If the devices have been used already.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # Without growth TensorFlow takes the whole memory of every GPU.
        tf.config.experimental.set_memory_growth(gpu, True)
    if virtual_devices:
        cpu = tf.config.list_physical_devices("CPU")[0]
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * virtual_devices
            )
        except RuntimeError as error:
            raise UsageError(
                f"--virtual_devices={virtual_devices} comes too late: {error}."
            ) from None
        devices = [f"CPU:{index}" for index in range(virtual_devices)]
    else:
        devices = [f"GPU:{index}" for index in range(len(gpus))] or ["CPU:0"]
    if strategy == "one_device" or (strategy == "auto" and len(devices) == 1):
        # The default strategy places work on the first device without the
        # detours of a distributed one.
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(devices)


def set_precision(precision: str) -> str:
    """Sets the global Keras dtype policy.

    Args:
        precision: A policy's name, or "auto": the 16-bit type that every
            device computes in hardware, else float32.

    Returns:
        The policy's name.
    """
    if precision == "auto":
        precision = _hardware_precision()
    keras.config.set_dtype_policy(precision)
    return precision


def set_seeds(seed: int, deterministic: bool) -> None:
    """Seeds Python, NumPy and TensorFlow; makes operations repeatable."""
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def _hardware_precision() -> str:
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get(
            "compute_capability", (0, 0)
        )
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    if capabilities:
        # bfloat16 came with compute capability 8.0, fast float16 with 7.0.
        if min(capabilities) >= (8, 0):
            return "mixed_bfloat16"
        return "mixed_float16" if min(capabilities) >= (7, 0) else "float32"
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    features = cpuinfo.read_text().split() if cpuinfo.exists() else []
    if "avx512_bf16" in features or "amx_bf16" in features:
        return "mixed_bfloat16"
    return "float32"
