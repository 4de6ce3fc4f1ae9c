"""Devices, distribution strategy, precision and seeds."""

import faulthandler
import itertools
import json
import os
import pathlib
from collections.abc import Iterable

import keras
import tensorflow as tf

from data_prep.runtime.errors import UsageError
from trainer.distribution.cluster import Cluster

_key_bases = itertools.count(step=1000)


def mirrored(devices: list[str] | None) -> tf.distribute.MirroredStrategy:
    """Returns a strategy for a network on each of some devices.

    TensorFlow numbers the collectives of every strategy alike and remembers
    their shapes, so a second training in one process, of another network, would
    be aborted ("Collective instance 100 expected type ..."). Each strategy gets
    numbers of its own here.

    Args:
        devices: Their names; None takes all GPUs.
    """
    tf.distribute.MirroredStrategy._collective_key_base = next(_key_bases)
    return tf.distribute.MirroredStrategy(devices)


def make_strategy(
    strategy: str,
    virtual_devices: int,
    cluster: Cluster | None = None,
    startup_timeout: float = 60.0,
) -> tf.distribute.Strategy:
    """Returns the strategy that a run trains under.

    Call it before TensorFlow uses any device.

    Args:
        strategy: "auto" is "multi_worker" where there is a cluster, else
            "mirrored" where there is more than one device; "one_device" uses
            the first GPU, or the CPU; "mirrored" uses all GPUs, or all
            logical CPU devices.
        virtual_devices: Makes this many logical CPU devices and trains on
            them, to try several replicas without a GPU; 0 makes none.
        cluster: The processes that train together; None for one.
        startup_timeout: Seconds to wait for the other workers, after which
            the process ends with a traceback.

    Raises:
        UsageError: If the devices have been used already, "multi_worker" has
            no cluster, or a cluster is combined with virtual devices.
    """
    workers = cluster_of(strategy, cluster)
    if workers and virtual_devices:
        raise UsageError(
            f"--virtual_devices={virtual_devices} cannot be had by several "
            "workers: TensorFlow gives each of them its GPUs or one CPU. "
            "Leave it out, or start more workers."
        )
    devices = _prepare_devices(virtual_devices)
    if strategy == "multi_worker" and cluster is None:
        raise UsageError(
            "--strategy=multi_worker needs a cluster of at least two workers: "
            "set TF_CONFIG, or start the job by `python -m launch.submit`."
        )
    if workers:
        return _multi_worker(cluster, startup_timeout)
    if strategy == "one_device" or (strategy == "auto" and len(devices) == 1):
        # The default strategy runs on the first device without the overhead
        # of a distributed one.
        return tf.distribute.get_strategy()
    return mirrored(devices)


def _prepare_devices(virtual_devices: int) -> list[str]:
    """Returns the names of the devices to train on, configured."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # Without growth TensorFlow takes the whole memory of every GPU.
        tf.config.experimental.set_memory_growth(gpu, True)
    if not virtual_devices:
        return [f"GPU:{index}" for index in range(len(gpus))] or ["CPU:0"]
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * virtual_devices
        )
    except RuntimeError as error:
        raise UsageError(
            f"--virtual_devices={virtual_devices} comes too late: {error}."
        ) from None
    return [f"CPU:{index}" for index in range(virtual_devices)]


def cluster_of(strategy: str, cluster: Cluster | None) -> Cluster | None:
    """Returns the cluster that a strategy uses, None where it ignores it.

    Args:
        strategy: One of the choices of `--strategy`.
        cluster: The processes that train together; None for one.
    """
    return cluster if strategy in ("auto", "multi_worker") else None


def use_xla(jit_compile: str) -> bool:
    """Returns whether XLA is to compile the training step.

    Args:
        jit_compile: "true", "false", or "auto": only on GPUs, as it is
            slower on CPUs.
    """
    if jit_compile == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    return jit_compile == "true"


def steps_per_loop(steps: int) -> int:
    """Returns how many steps each call of TensorFlow runs.

    Args:
        steps: The number wanted; 0 stands for 1, or for 8 on GPUs, which
            finish a step so soon that Python would slow them down.
    """
    return steps or (8 if tf.config.list_physical_devices("GPU") else 1)


def distribute(
    strategy: tf.distribute.Strategy, dataset: tf.data.Dataset
) -> Iterable:
    """Returns the dataset's elements, one per replica at a time.

    The next batches are copied to the accelerator while one is processed.

    Args:
        strategy: The strategy of the model that gets them.
        dataset: Elements of one replica each; consecutive ones are a step.
    """
    if strategy is not tf.distribute.get_strategy():
        # Prefetches to each replica's device by itself.
        return strategy.distribute_datasets_from_function(lambda _: dataset)
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        copy = tf.data.experimental.prefetch_to_device(gpus[0].name, 2)
        return dataset.apply(copy)
    return dataset


def _multi_worker(
    cluster: Cluster, startup_timeout: float
) -> tf.distribute.Strategy:
    os.environ["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": list(cluster.workers)},
            "task": {"type": "worker", "index": cluster.index},
        }
    )
    # Its constructor waits for the others for ever and holds the
    # interpreter's lock: only a watchdog in C can end that.
    faulthandler.dump_traceback_later(startup_timeout, exit=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    finally:
        faulthandler.cancel_dump_traceback_later()


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
    """Seeds Python, NumPy and TensorFlow.

    Args:
        seed: The run's seed.
        deterministic: Whether to use only operations that repeat to the bit.
    """
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
