"""The whole path under faults: it ends as if there had been none.

python -m benchmarks.soak --minutes=30 [--seed=0] [--scratch=FOLDER]

Photos are prepared and a small network is trained, by one process and by two
workers, first undisturbed. Then the same again and again, disturbed at random
moments: SIGKILL, SIGTERM, a disk that is full from then on, a checkpoint that is
cut, a shard with a flipped bit, a worker that is lost. After every fault the
exit code is asked, and the same command is run again. What comes out in the end
is the same to the bit, and nothing else is left. The first thing that is
otherwise ends it, and the folder is kept.
"""

import collections
import contextlib
import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import psutil
from absl import flags
from PIL import Image

from data_prep.runtime import command
from launch import workers as workers_lib

PER_CLASS = 20
FAULTS_PER_RUN = 4
STEPS = 12  # of a training: 3 epochs of 32 images, by 8
LEAST_RUNS = 4  # one and several workers, undisturbed and disturbed
_DETERMINISTIC = (
    *("--recipe=", "--base=scratch", "--weights=none"),
    *("--freeze_random_weights", "--image_size=46", "--batch_size=8"),
    *("--frozen_epochs=1", "--finetune_epochs=2", "--finetune_from=conv4"),
    *("--augment=classic", "--dropout=0.3", "--average_decay=0.9"),
    *("--precision=float32", "--deterministic", "--checkpoint_steps=1"),
)
# What a process may end with after each fault. Any may come when the work is
# done, and a worker may be the one that stays and has to start again.
_CODES = {
    "nothing": {0},
    "kill": {0, -signal.SIGKILL, 75},
    # Before Python has begun, nobody hears it.
    "term": {0, 75, -signal.SIGTERM},
    "full disk": {0, 1, 65, 75},
    "cut checkpoint": {0},
    "flipped bit": {65, 75},
}


class Wrong(Exception):
    """Something came out otherwise than without faults."""


class Ended(NamedTuple):
    """Exit codes and outputs of the processes of an attempt."""

    codes: list[int]
    outputs: list[str]


def make_photos(root: pathlib.Path) -> pathlib.Path:
    """Writes two classes of pictures that differ; returns their folder."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        folder = root / "photos" / name
        folder.mkdir(parents=True)
        for number in range(PER_CLASS):
            pixels = generator.integers(0, 160, (48, 60, 3), np.uint8)
            pixels[..., label] += 95
            Image.fromarray(pixels).save(folder / f"{number:03d}.jpg")
    return root / "photos"


def preparing(photos: pathlib.Path, data: pathlib.Path) -> list[str]:
    """Returns the command that makes a data set."""
    return ["data_prep.task", f"--source={photos}", f"--output_dir={data}"]


def training(data: pathlib.Path, model: pathlib.Path) -> list[str]:
    """Returns the command that trains on it."""
    places = [f"--data_dir={data}", f"--model_dir={model}"]
    return ["trainer.task", *places, *_DETERMINISTIC]


class Work:
    """A command, run by one process or by several workers.

    Args:
        words: A module and its flags.
        workers: Number of processes.
        generator: Chooses moments and victims.
    """

    def __init__(
        self, words: list[str], workers: int, generator: random.Random
    ):
        self._words, self._workers = words, workers
        self._random = generator
        self.seconds = 0.0  # of the whole, undisturbed

    def run(
        self, fault: str = "nothing", moment: Callable[[], bool] | None = None
    ) -> Ended:
        """Runs it to its end, with a fault that a process meets on the way.

        Args:
            fault: A key of `_CODES`.
            moment: Whether the fault comes now; a random one without it.

        Raises:
            Wrong: If an exit code does not belong to the fault.
        """
        began = time.monotonic()
        processes = self._start()
        if fault in ("kill", "term", "full disk"):
            victim = self._random.choice(processes)
            if moment is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    victim.wait(self._random.uniform(0, self.seconds))
            else:
                while victim.poll() is None and not moment():
                    time.sleep(0.01)
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                _disturb(victim, fault)
        outputs = [process.communicate()[0] for process in processes]
        if fault == "nothing":
            self.seconds = max(self.seconds, time.monotonic() - began)
        ended = Ended([process.returncode for process in processes], outputs)
        traceback = any("Traceback" in output for output in outputs)
        if not set(ended.codes) <= _CODES[fault] or traceback:
            said = "\n".join(outputs)
            raise Wrong(
                f"{self._words[0]} after {fault}: {ended.codes}\n{said}"
            )
        return ended

    def _start(self) -> list[subprocess.Popen]:
        ports = workers_lib.free_ports(self._workers)
        hosts = [f"127.0.0.1:{port}" for port in ports]
        processes = []
        for index in range(self._workers):
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": hosts}, "task": task}
            several = {"TF_CONFIG": json.dumps(config)}
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", *self._words],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=os.environ | (several if self._workers > 1 else {}),
                )
            )
        return processes


def _disturb(process: subprocess.Popen, fault: str) -> None:
    if fault == "full disk":  # no file of it grows any more
        psutil.Process(process.pid).rlimit(resource.RLIMIT_FSIZE, (0, 0))
    else:
        process.send_signal(getattr(signal, f"SIG{fault.upper()}"))


@contextlib.contextmanager
def flipped_bit(data: pathlib.Path) -> Iterator[str]:
    """Flips a bit of a picture in a shard for a while; yields its name."""
    shard = sorted(data.glob("*-train.tfrecord-*"))[0]
    content = shard.read_bytes()
    place = len(content) // 2
    changed = content[:place] + bytes([content[place] ^ 4])
    shard.write_bytes(changed + content[place + 1 :])
    try:
        yield shard.name
    finally:
        shard.write_bytes(content)


def checkpoints(model: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints that a run goes on from, the newest last."""
    return sorted((model / "checkpoints").glob("step-*.npz"))


def step_of(model: pathlib.Path) -> int:
    """Returns the step of the newest checkpoint, 0 without one."""
    return max((int(one.stem[5:]) for one in checkpoints(model)), default=0)


def at_a_step(
    model: pathlib.Path, generator: random.Random
) -> Callable[[], bool] | None:
    """Returns what waits for a step that is not made yet; None after the last.

    A run is short, and mostly begins and ends: of moments by the clock few lie
    between two checkpoints.
    """
    if step_of(model) >= STEPS - 1:
        return None
    step = generator.randint(step_of(model) + 1, STEPS - 1)
    return lambda: step_of(model) >= step


def finish(
    work: Work,
    generator: random.Random,
    data: pathlib.Path,
    model: pathlib.Path | None = None,
) -> Iterator[str]:
    """Runs work through some faults to its end.

    Args:
        work: What runs.
        generator: Chooses the faults.
        data: The data set.
        model: The model directory; None where the data set is being made.

    Yields:
        The faults that it met.
    """
    for _ in range(FAULTS_PER_RUN):
        kinds = ["kill", "term", "full disk"]
        if model:
            kinds += ["cut checkpoint", "flipped bit"]
        fault = generator.choice(kinds)
        if fault == "flipped bit":
            if (model / "DONE.json").exists():
                continue
            with flipped_bit(data) as shard:
                ended = work.run(fault)
            if not any(shard in output for output in ended.outputs):
                raise Wrong(f"{shard} is not named:\n{ended.outputs}")
        elif fault == "cut checkpoint":
            if moment := at_a_step(model, generator):
                work.run("kill", moment)
                yield "kill"
            if (model / "DONE.json").exists() or len(checkpoints(model)) < 2:
                continue
            newest = checkpoints(model)[-1]
            newest.write_bytes(newest.read_bytes()[:-100])
            ended = work.run(fault)
            if "is damaged" not in ended.outputs[0]:
                raise Wrong(f"no word of the damage:\n{ended.outputs}")
        else:
            moment = model and at_a_step(model, generator)
            work.run(fault, generator.choice([None, moment]))
        yield fault
        if model is None and (data / "manifest.json").exists():
            return  # made before the fault came, and made but once
    work.run()


def outcome(data: pathlib.Path, model: pathlib.Path) -> dict[str, str]:
    """Returns digests of all that has to be the same, by name."""
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (*data.glob("*.tfrecord*"), *data.glob("*.index"))
    }
    rows = [
        json.loads(line)
        for line in (model / "metrics.jsonl").read_text().splitlines()
    ]
    names = ("phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy")
    found["metrics"] = json.dumps([[row[n] for n in names] for row in rows])
    newest = checkpoints(model)[-1]
    with np.load(newest) as arrays:
        for name in arrays.files:
            if name != "state.json":
                digest = hashlib.sha256(arrays[name].tobytes())
                found[f"{newest.name} {name}"] = digest.hexdigest()
    predictions = (model / "predictions.csv").read_bytes()
    found["predictions.csv"] = hashlib.sha256(predictions).hexdigest()
    return found


def check_nothing_is_left(root: pathlib.Path) -> None:
    """Refuses half-written files, and processes that go on.

    Raises:
        Wrong: If there are any.
    """
    files = [*root.rglob("incomplete*")]
    lost = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(str(root) in w for w in words):
            lost.append(" ".join(words))
    if files or lost:
        raise Wrong(f"left behind: {files} {lost}")


def soak(
    root: pathlib.Path, minutes: float, seed: int
) -> tuple[int, collections.Counter]:
    """Returns how many whole runs came out right, and the faults they met.

    Raises:
        Wrong: If one did not.
    """
    generator = random.Random(seed)
    photos = make_photos(root)
    faults: collections.Counter = collections.Counter()
    wanted: dict[int, dict] = {}
    seconds: dict[str, float] = {}
    runs, end = 0, time.monotonic() + 60 * minutes
    while time.monotonic() < end or runs < LEAST_RUNS:
        workers = 1 + runs % 2
        disturbed = workers in wanted
        place = root / "run"
        data, model = place / "data", place / "model"
        place.mkdir()
        for words, many, places in (
            (preparing(photos, data), 1, (data,)),
            (training(data, model), workers, (data, model)),
        ):
            work = Work(words, many, generator)
            name = f"{words[0]} by {many}"
            work.seconds = seconds.get(name, 0.0)
            if disturbed:
                faults.update(finish(work, generator, *places))
            else:
                work.run()
                seconds[name] = work.seconds
        found = outcome(data, model)
        different = {
            name
            for name in found.keys() | wanted.setdefault(workers, found).keys()
            if found.get(name) != wanted[workers].get(name)
        }
        if different:
            raise Wrong(f"came out otherwise: {sorted(different)}")
        check_nothing_is_left(root)
        shutil.rmtree(place)
        runs += 1
        print(f"{runs} runs, {sum(faults.values())} faults", flush=True)
    return runs, faults


def main() -> int:
    """Prints what was met and whether all came out right."""
    values = flags.FLAGS
    root = pathlib.Path(values.scratch or tempfile.mkdtemp(prefix="soak-"))
    root.mkdir(exist_ok=True)
    try:
        runs, faults = soak(root, values.minutes, values.seed)
    except Wrong as error:
        print(f"{error}\nkept: {root}", file=sys.stderr)
        return 1
    shutil.rmtree(root)
    print(f"{runs} whole runs, all the same to the bit; faults: {dict(faults)}")
    return 0


if __name__ == "__main__":
    flags.DEFINE_float("minutes", 30, "How long; at least four whole runs.", 0)
    flags.DEFINE_integer("seed", 0, "Of the moments and faults.")
    flags.DEFINE_string("scratch", "", "Folder; a temporary one unless given.")
    command.run(main)
