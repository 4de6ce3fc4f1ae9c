"""Training on this machine's GPUs: the whole table, by one command.

python -m benchmarks.gpu

A base with random weights, its last layers and the head learning, by the
trainer's own loop: precisions with XLA and without, one batch over 1, 2, 4 and 8 devices,
augmentation, waiting for data, copies to the device, and the share of the data
sheet's peak (see `benchmarks.flops`). Each figure comes from a process of its
own; the form of the results is that of `benchmarks.run`.

`--virtual_devices=2` runs every line on logical CPU devices, without a GPU: its
figures mean nothing. No GPU was at hand when this was written.
"""

import dataclasses
import itertools
import pathlib
import statistics
import tempfile
import time

import numpy as np
from absl import flags

from benchmarks import flops
from benchmarks import input_pipeline
from benchmarks import measure
from benchmarks import photos
from benchmarks import train_step
from benchmarks.measure import Comparison
from benchmarks.measure import Curve
from benchmarks.report import Report
from benchmarks.train_step import Trial
from data_prep.runtime import command
from data_prep.runtime import startup
from data_prep.runtime.errors import UsageError
from trainer.models.bases import BASES

COUNTS = (1, 2, 4, 8)  # devices that a batch is spread over
_COPIES = 20  # of a batch, before the device is waited for


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a trial gave.

    Attributes:
        rates: Images/s of each pass.
        waited: Percent of the time that each pass waited for batches.
        flops: Operations of a step per image, see `flops.of_step`.
    """

    rates: list[float]
    waited: list[float]
    flops: int


def device_names() -> list[str]:
    """Returns the names of this machine's GPUs."""
    startup.import_tensorflow()
    import tensorflow as tf

    return [
        tf.config.experimental.get_device_details(gpu)["device_name"]
        for gpu in tf.config.list_physical_devices("GPU")
    ]


def run_trial(trial: Trial, constant: bool, runs: int) -> Measured:
    """Trains on the first devices of this machine, in a process of its own.

    Args:
        trial: What is trained; a precision of "tf32" is float32 in which
            tensor cores multiply with 10 bits, "float32" is without.
        constant: Whether every batch is the first, so that nothing waits.
        runs: Passes that count, after one that does not.
    """
    startup.import_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    tf.config.set_visible_devices(gpus[: trial.replicas], "GPU")
    tf.config.experimental.enable_tensor_float_32_execution(
        trial.precision == "tf32"
    )
    if trial.precision == "tf32":
        trial = dataclasses.replace(trial, precision="float32")
    parts = train_step.build(trial)
    epoch = train_step.our_loop(trial, parts, constant)
    epoch()
    found = Measured([], [], flops.of_step(parts.model))
    for _ in range(runs):
        start = time.perf_counter()
        totals = epoch()
        seconds = time.perf_counter() - start
        found.rates.append(trial.steps * trial.batch_size / seconds)
        found.waited.append(100 * totals.waited / seconds)
    return found


def copies(batch: int, size: int, runs: int) -> list[float]:
    """Returns GB/s from this machine's memory to the first device.

    Args:
        batch: Images of a batch of uint8, which is what training copies.
        size: Of the images, in pixels.
        runs: That count.
    """
    startup.import_tensorflow()
    import tensorflow as tf

    with tf.device("CPU:0"):
        pixels = tf.constant(np.zeros((batch, size, size, 3), np.uint8))
    device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
    found = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        with tf.device(device):
            # + 0: on the CPU an identity copies nothing.
            there = [pixels + tf.zeros([], tf.uint8) for _ in range(_COPIES)]
            # A value that depends on the last one waits for all.
            tf.reduce_max(there[-1][0, 0, 0]).numpy()
        seconds = time.perf_counter() - start
        found.append(_COPIES * batch * size * size * 3 / seconds / 1e9)
    return found[1:]


class Table:
    """The table of one machine.

    Args:
        trial: What all figures begin with, on one device.
        precisions: Policies, the best first.
        devices: How many there are.
        name: Of a device; "" without a GPU.
        runs: Passes that count, for each figure.
    """

    def __init__(
        self,
        trial: Trial,
        precisions: list[str],
        devices: int,
        name: str,
        runs: int,
    ):
        self._trial = dataclasses.replace(trial, precision=precisions[0])
        self._precisions = precisions
        self._devices = devices
        self._name = name
        self._runs = runs

    def _measure(self, constant: bool = True, **changes) -> Measured:
        trial = dataclasses.replace(self._trial, **changes)
        return measure.alone(run_trial, trial, constant, self._runs)

    def _title(self, what: str) -> str:
        trial = self._trial
        return (
            f"{what}, {trial.base} fine-tuned, {trial.image_size} px, "
            f"{trial.batch_size} images per device"
        )

    def steps(self) -> list[Comparison]:
        """Precisions with XLA and without, and their share of the peak."""
        rates = Comparison(self._title("Step"), "images/s", {})
        shares = Comparison(self._title("Share of the peak"), "% MFU", {})
        for precision, xla in itertools.product(
            self._precisions, (True, False)
        ):
            name = f"{precision}, {'XLA' if xla else 'no XLA'}"
            found = self._measure(precision=precision, jit_compile=xla)
            rates.figures[name] = found.rates
            if peak := flops.peak(self._name, precision):
                shares.figures[name] = [
                    100 * rate * found.flops / peak for rate in found.rates
                ]
            else:
                shares.left_out.append(
                    f"{name} (no peak of {self._name or 'a processor'} is "
                    "known to benchmarks/flops.py)"
                )
        return [rates, shares]

    def replicas(self) -> list[Curve]:
        """As many images per device, on 1, 2, 4 and 8 devices."""
        trial = self._trial
        rates = {
            count: self._measure(
                replicas=count, batch_size=count * trial.batch_size
            ).rates
            for count in COUNTS
            if count <= self._devices
        }
        one = statistics.median(rates[1])
        return [
            Curve(
                self._title(f"MirroredStrategy, {trial.precision}"),
                "images/s",
                "devices",
                rates,
                {count: count * one for count in rates},
                "devices x what one takes",
            )
        ]

    def augmentation(self) -> list[Comparison]:
        """What augmentation takes of a step."""
        found = Comparison(self._title("Augmentation"), "images/s", {})
        for policy in ("none", "classic", "randaugment"):
            found.figures[policy] = self._measure(augment=policy).rates
        return [found]

    def data(self) -> list[Comparison]:
        """What waiting for data takes: from memory, and decoded anew."""
        rates = Comparison(self._title("Data"), "images/s", {})
        waits = Comparison(
            self._title("Waiting for data"), "% of time", {}, [], True
        )
        for name, constant, cache_mb in (
            ("decoded anew", False, 0),
            ("from memory", False, -1),
            ("one batch again and again", True, 0),
        ):
            found = self._measure(constant, cache_mb=cache_mb)
            rates.figures[name] = found.rates
            waits.figures[name] = found.waited
        return [rates, waits]

    def transfers(self) -> list[Comparison]:
        """Copies of a batch to the device."""
        trial = self._trial
        found = measure.alone(
            copies, trial.batch_size, trial.image_size, self._runs
        )
        title = f"Copies of {trial.batch_size} images, {trial.image_size} px"
        return [Comparison(title, "GB/s", {"to the device": found})]


def main() -> None:
    """Measures part by part, prints and writes."""
    values = flags.FLAGS
    names = measure.alone(device_names)
    count = len(names) or values.virtual_devices
    if not count:
        raise UsageError(
            "TensorFlow sees no GPU here. Install TensorFlow with CUDA "
            "(`pip install -e '.[gpu]'`) on a machine with one, or try every "
            "line on processors: --virtual_devices=2."
        )
    report = Report(values.output_dir, "benchmarks.gpu", devices=names)
    size = values.image_size
    with tempfile.TemporaryDirectory() as scratch:
        folder = values.photos
        if folder is None:
            folder = f"{scratch}/photos"
            photos.write(pathlib.Path(folder), values.made)
        places = input_pipeline.prepare_all(folder, size, scratch, ["original"])
        trial = Trial(
            places["original"],
            "finetune",
            values.precisions[0],
            size,
            values.batch_size,
            values.steps,
            jit_compile=True,
            base=values.base,
        )
        table = Table(
            trial,
            values.precisions,
            count,
            names[0] if names else "",
            values.runs,
        )
        for part in (
            table.steps,
            table.replicas,
            table.augmentation,
            table.data,
            table.transfers,
        ):
            found = part()
            report.add(found)
            for one in found:
                print(f"\n{measure.table(one)}", flush=True)
    print(f"\n{values.output_dir}/results.json")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Folder of class folders of JPEGs.")
    flags.DEFINE_integer("made", 500, "Photos of each class, without one.", 1)
    flags.DEFINE_string("output_dir", "gpu-results", "For the files.")
    flags.DEFINE_list(
        "precisions",
        ["mixed_bfloat16", "mixed_float16", "tf32", "float32"],
        "Policies to measure; the first for all that follows.",
    )
    flags.DEFINE_enum("base", "vgg16", list(BASES), "As of the trainer.")
    flags.DEFINE_integer("image_size", 224, "Of the images, in pixels.", 32)
    flags.DEFINE_integer("batch_size", 64, "Images per device and step.", 1)
    flags.DEFINE_integer("steps", 30, "Batches per pass.", 1)
    flags.DEFINE_integer("runs", 5, "Passes that count.", 1)
    flags.DEFINE_integer(
        "virtual_devices", 0, "Logical CPU devices, where there is no GPU.", 0
    )
    command.run(main)
