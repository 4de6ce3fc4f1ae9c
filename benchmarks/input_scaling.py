"""Images per second over processors, and what hosts of eight GPUs need.

python -m benchmarks.input_scaling --photos=FOLDER

Two figures are measured for each way that records are stored: the processor
time of an image, which is spread over all processors, and the rate at which
the training process takes batches that cost nothing, which is not. The lesser
of processors / time and that rate is the model. It is then tried: decoders
that sleep as long as decoding takes stand in for 2 to 128 processors, while
the training process is a real one, on this machine's processors.
"""

import functools
import statistics
import tempfile
from collections.abc import Sequence

import psutil
from absl import flags

from benchmarks import input_pipeline
from benchmarks import machine
from benchmarks import measure
from benchmarks import no_decoding
from benchmarks.measure import Curve
from data_prep.runtime import command
from data_prep.runtime import startup
from data_prep.runtime.errors import UsageError

PROCESSORS = (2, 8, 32, 64, 128)
WANTED = (20_000, 50_000)
# Virtual processors of the clouds' hosts of eight GPUs, from their tables of
# machine types (AWS p4d and p5, Google a2 and a3).
HOSTS = {"p4d.24xlarge, a2-highgpu-8g": 96, "p5.48xlarge": 192, "a3": 208}


def cpu_seconds(data_dir: str, size: int, runs: int) -> float:
    """Returns the processor seconds that an image takes, of all processes."""
    startup.import_tensorflow()
    epoch = input_pipeline.ours(data_dir, size, "fast", repeats=5)
    epoch()
    samples = []
    for _ in range(runs):
        before = _used()
        images = epoch()
        samples.append((_used() - before) / images)
    return statistics.median(samples)


def _used() -> float:
    own = psutil.Process()
    return sum(
        sum(process.cpu_times()[:2])
        for process in (own, *own.children(recursive=True))
    )


def rate_asleep(
    data_dir: str, size: int, processors: int, seconds: float, runs: int
) -> list[float]:
    """Returns images/s of a host of so many processors, which sleep.

    Args:
        data_dir: A data set of one split, "train".
        size: Of the batches, in pixels.
        processors: How many there seem to be.
        seconds: What an image takes one of them.
        runs: Passes that count.
    """
    startup.import_tensorflow()
    from data_prep.runtime import limits
    from trainer.pipeline import input_pipeline as real

    limits.processors = lambda: processors
    real.DecodingPool = functools.partial(no_decoding.pool, seconds=seconds)
    # Long enough that its start is no part of it.
    passes = processors
    epoch = input_pipeline.ours(data_dir, size, "fast", passes)
    return measure.rates(epoch, runs)


def measure_scaling(
    name: str, data_dir: str, size: int, counts: Sequence[int], runs: int
) -> tuple[Curve, float, float]:
    """Measures one way to store records, and tries the model.

    Args:
        name: Of that way.
        data_dir: A data set of one split, "train".
        size: Of the batches, in pixels.
        counts: Numbers of processors to try.
        runs: Passes that count.

    Returns:
        The model and how it was tried; what an image takes, in seconds of a
        processor; and the images/s that the training process takes at most.
    """
    seconds = measure.alone(cpu_seconds, data_dir, size, runs)
    asleep = functools.partial(measure.alone, rate_asleep, data_dir, size)
    most = statistics.median(asleep(max(PROCESSORS), 0.0, runs))
    curve = Curve(
        f"Input over processors ({name} records), at {size} px",
        "images/s",
        "processors",
        {count: asleep(count, seconds, runs) for count in counts},
        {count: min(count / seconds, most) for count in counts},
        "processors / processor time of an image, at most what the training "
        "process takes",
    )
    return curve, seconds, most


def report(name: str, data_dir: str, size: int, runs: int) -> str:
    """Returns the model of one way to store records, and how it was tried."""
    curve, seconds, most = measure_scaling(
        name, data_dir, size, PROCESSORS, runs
    )
    lines = [
        f"{name} records: {seconds * 1e6:.0f} us of a processor per image; the "
        f"training process takes {most:,.0f} images/s",
        measure.table(curve),
    ]
    for rate in WANTED:
        needed = f"{rate * seconds:.0f} processors"
        if rate > most:
            needed = "more than one training process takes"
        lines.append(f"{rate:,} images/s: {needed}")
    for host, count in HOSTS.items():
        lines.append(
            f"{host}, {count} processors: {min(count / seconds, most):,.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    values = flags.FLAGS
    if not values.photos:
        raise UsageError("--photos is missing: a folder of class folders.")
    print(machine.line("tensorflow", "opencv-python-headless"))
    size = values.image_size
    with tempfile.TemporaryDirectory() as scratch:
        places = input_pipeline.prepare_all(values.photos, size, scratch)
        for name, place in places.items():
            print(f"\n{report(name, place, size, values.runs)}", flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Folder of class folders of JPEGs.")
    flags.DEFINE_integer("image_size", 150, "Of the batches, in pixels.")
    flags.DEFINE_integer("runs", 3, "Passes that count.")
    command.run(main)
