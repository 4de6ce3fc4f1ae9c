"""All that is measured here of one machine, in one run and one JSON file.

python -m benchmarks.run --suite=quick
python -m benchmarks.run --suite=full --photos=FOLDER --weights=FILE

Every part measures ours and its peers in turns (peers that are not installed
are named); `results.json` gives ratios first, then n, median and spread of each
figure, machine, versions, commit and command; plots lie beside it. It is written
anew after each part.

FOLDER holds train/CLASS and validation/CLASS of JPEGs; without it photos are cut
out of scikit-learn's two, and time to accuracy is that of a small network on its
digits. `quick` is made for five minutes on two cores that do nothing else; `smoke`
runs every line, and its figures mean nothing.
"""

import dataclasses
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable
from collections.abc import Sequence

from absl import flags

from benchmarks import augmentation
from benchmarks import data_prep
from benchmarks import features
from benchmarks import input_pipeline
from benchmarks import input_scaling
from benchmarks import measure
from benchmarks import photos
from benchmarks import serving
from benchmarks import time_to_accuracy
from benchmarks import train_step
from benchmarks.measure import Comparison
from benchmarks.measure import Curve
from benchmarks.report import Report
from data_prep.runtime import command
from data_prep.runtime import startup
from launch import quickstart

_INPUT_PEERS = (
    "ours",
    "limit: simplejpeg alone, full",
    "Keras image_dataset_from_directory",
    "tf.data by the batch, original records",
    "PyTorch DataLoader, PIL",
)


@dataclasses.dataclass(frozen=True)
class Suite:
    """How much is measured.

    Attributes:
        photos: Made of each class where no folder is named.
        image_size: Of batches of images, in pixels.
        network_size: Of what a network sees, in pixels.
        batch_size: Images per batch of augmentation, training and features.
        steps: Batches of a pass of training.
        rounds: Turns of each candidate.
        commands: Runs of what starts anew each time: commands, servers.
        runs: Passes that count, in each turn.
        kinds: Encodings of records whose scaling is measured.
        processors: Numbers of processors that scaling is tried with.
        peers: Rows of the input pipeline; empty takes all.
        phases: Phases of training.
        precisions: Dtype policies of training.
        clients: Of the server, how many at a time.
        seconds: That they ask.
        recipes: Of time to accuracy, where photos and weights are named.
        seeds: Runs of each recipe.
    """

    photos: int
    image_size: int
    network_size: int
    batch_size: int
    steps: int
    rounds: int
    commands: int
    runs: int
    kinds: tuple[str, ...]
    processors: tuple[int, ...]
    peers: tuple[str, ...]
    phases: tuple[str, ...]
    precisions: tuple[str, ...]
    clients: tuple[int, ...]
    seconds: float
    recipes: tuple[str, ...]
    seeds: int


_SMOKE = Suite(
    photos=8,
    image_size=48,
    network_size=32,
    batch_size=4,
    steps=2,
    rounds=1,
    commands=1,
    runs=1,
    kinds=("original",),
    processors=(2,),
    peers=(_INPUT_PEERS[0], _INPUT_PEERS[-1]),
    phases=("frozen",),
    precisions=("float32",),
    clients=(2,),
    seconds=1.0,
    recipes=("fast",),
    seeds=1,
)
_QUICK = dataclasses.replace(
    _SMOKE,
    photos=200,
    image_size=150,
    network_size=64,
    batch_size=16,
    rounds=2,
    runs=2,
    processors=(16,),
    peers=_INPUT_PEERS,
    phases=("finetune",),
    clients=(1, 8),
    seconds=4.0,
)
SUITES = {
    "smoke": _SMOKE,
    "quick": _QUICK,
    "full": Suite(
        photos=1000,
        image_size=150,
        network_size=150,
        batch_size=32,
        steps=16,
        rounds=3,
        commands=3,
        runs=4,
        kinds=("original", "jpeg", "raw"),
        processors=input_scaling.PROCESSORS,
        peers=(),
        phases=("frozen", "finetune"),
        precisions=("float32", "mixed_bfloat16"),
        clients=(1, 8, 64),
        seconds=15.0,
        recipes=("fast", "best"),
        seeds=3,
    ),
}


class Run:
    """One run of a suite: its parts, which share photos, records and a model.

    Args:
        suite: How much is measured.
        scratch: Folder for what is made.
        folder: Of train/ and validation/, or None.
        weights: File of VGG16's ImageNet weights, or None.
    """

    def __init__(
        self,
        suite: Suite,
        scratch: str,
        folder: str | None,
        weights: str | None,
    ):
        self._suite = suite
        self._scratch = scratch
        self._folder = folder
        self._weights = weights
        if folder is None:
            photos.write(pathlib.Path(scratch, "photos", "train"), suite.photos)
            folder = f"{scratch}/photos"
        self._photos = f"{folder}/train"
        self._places = input_pipeline.prepare_all(
            self._photos, suite.image_size, scratch
        )
        self._digits = pathlib.Path(scratch, "digits")
        quickstart.write_digits(self._digits)
        self._model = f"{scratch}/model"

    def prepare(self) -> list[Comparison]:
        """Images/s and processor time of data_prep."""
        found, _ = data_prep.compare(self._photos, self._suite.rounds)
        return found

    def read(self) -> list[Comparison]:
        """Images/s of the input pipeline."""
        size, suite = self._suite.image_size, self._suite
        makers = input_pipeline.makers_of_all(
            self._photos, self._places, size, self._scratch
        )
        wanted = {
            name: make
            for name, make in makers.items()
            if name in (suite.peers or makers)
        }
        return [input_pipeline.compare(wanted, size, suite.rounds, suite.runs)]

    def scale(self) -> list[Curve]:
        """Input over processors: the model, and how it was tried."""
        suite = self._suite
        return [
            input_scaling.measure_scaling(
                kind,
                self._places[kind],
                suite.image_size,
                suite.processors,
                suite.runs,
            )[0]
            for kind in suite.kinds
        ]

    def augment(self) -> list[Comparison]:
        """Images/s of augmentation."""
        suite = self._suite
        return augmentation.compare(
            suite.image_size,
            suite.batch_size,
            suite.rounds,
            suite.runs,
            classic_only=suite is not SUITES["full"],
        )

    def train(self) -> list[Comparison]:
        """Images/s of training steps."""
        suite = self._suite
        return [
            train_step.compare(
                train_step.Trial(
                    self._places["raw"],
                    phase,
                    precision,
                    suite.network_size,
                    suite.batch_size,
                    suite.steps,
                    jit_compile=False,
                ),
                suite.rounds,
                suite.runs,
            )
            for precision, phase in itertools.product(
                suite.precisions, suite.phases
            )
        ]

    def extract(self) -> list[Comparison]:
        """Images/s of the frozen base's features."""
        suite = self._suite
        return [
            features.compare(
                self._photos,
                self._places["original"],
                suite.network_size,
                suite.batch_size,
                suite.rounds,
                suite.runs,
            )
        ]

    def reach_accuracy(self) -> list[Comparison]:
        """From images to a model: seconds, and what it reaches."""
        suite = self._suite
        found = time_to_accuracy.compare_digits(
            str(self._digits), self._model, suite.commands
        )
        if self._folder and self._weights:
            found += time_to_accuracy.compare_recipes(
                self._folder,
                self._weights,
                suite.recipes,
                range(suite.seeds),
                "auto",
                peer_steps=suite.steps,
            )
        return found

    def serve(self) -> list[Comparison]:
        """Requests/s of the model that time to accuracy made."""
        suite = self._suite
        if not os.path.exists(self._model):
            time_to_accuracy.compare_digits(str(self._digits), self._model, 1)
        some = sorted(self._digits.glob("*/*.png"))[::30]
        return serving.compare(
            self._model,
            [path.read_bytes() for path in some],
            suite.clients,
            suite.seconds,
            suite.commands,
        )


# By name, in an order in which the later find what the earlier made.
PARTS: dict[str, Callable[[Run], Sequence[Comparison | Curve]]] = {
    "data_prep": Run.prepare,
    "input": Run.read,
    "scaling": Run.scale,
    "augmentation": Run.augment,
    "train_step": Run.train,
    "features": Run.extract,
    "time_to_accuracy": Run.reach_accuracy,
    "serving": Run.serve,
}


def main() -> None:
    """Measures part by part, prints and writes."""
    values = flags.FLAGS
    report = Report(values.output_dir, "benchmarks.run")
    startup.import_tensorflow()
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(SUITES[values.suite], scratch, values.photos, values.weights)
        for name, measure_part in PARTS.items():
            if name in values.part:
                found = measure_part(run)
                report.add(found)
                for one in found:
                    print(f"\n{measure.table(one)}", flush=True)
    if not (values.photos and values.weights):
        report.leave_out(
            "recipes", "--photos and --weights name no photos and no weights"
        )
    print(f"\n{values.output_dir}/results.json")


if __name__ == "__main__":
    flags.DEFINE_enum("suite", "quick", list(SUITES), "How much is measured.")
    flags.DEFINE_string("output_dir", "benchmark-results", "For the files.")
    flags.DEFINE_multi_enum(
        "part", list(PARTS), list(PARTS), "What is measured; may be repeated."
    )
    flags.DEFINE_string("photos", None, "Folder of train/ and validation/.")
    flags.DEFINE_string("weights", None, "File of VGG16's ImageNet weights.")
    command.run(main)
