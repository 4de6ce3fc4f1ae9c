"""Images per second into batches, beside peers, and where the time goes.

python -m benchmarks.input_pipeline --photos=FOLDER

FOLDER holds one folder of JPEG files per class. Every candidate makes uint8
batches of 64 square images from the same files, shuffled, and decodes anew in
every epoch unless its row says otherwise. Peers that are not installed
(`pip install -r benchmarks/requirements.txt`) are left out, and named.
"""

import functools
import json
import pathlib
import subprocess
import tempfile
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
from absl import flags

from benchmarks import input_peers
from benchmarks import input_stages
from benchmarks import machine
from benchmarks import measure
from benchmarks import no_decoding
from benchmarks.input_peers import BATCH
from benchmarks.input_peers import consume
from benchmarks.input_peers import consume_in_graph
from benchmarks.measure import Comparison
from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.prepare import prepare
from data_prep.runtime import command
from data_prep.runtime import startup
from data_prep.runtime.errors import UsageError


def ours(
    data_dir: str,
    size: int,
    source: str,
    repeats: int = 1,
    in_graph: bool = True,
):
    """Our pipeline.

    Args:
        data_dir: A data set of one split, "train".
        size: Of the batches, in pixels.
        source: "fast", "exact", "memory", or "nothing" to decode nothing.
        repeats: Epochs that are read as one: a pass over 1000 images that cost
            nothing is over before it has begun.
        in_graph: Whether batches are consumed in a tf.function.

    Returns:
        A pass, see `measure.rates`.
    """
    from trainer.pipeline import cache
    from trainer.pipeline import input_pipeline
    from trainer.pipeline.reader import Reader

    if source == "nothing":
        input_pipeline.DecodingPool = no_decoding.pool
    reader = Reader(data_dir, manifest_lib.load(data_dir), "train")
    images = (
        input_pipeline.decoded_exactly(reader, size)
        if source == "exact"
        else input_pipeline.decoded_fast(reader, size)
    )
    if source == "memory":
        plan = input_pipeline.plan_evaluation(reader.count, BATCH)
        in_order = input_pipeline.create(reader, plan, images)
        pixels = cache.fill(reader, in_order, size, None)
        images = input_pipeline.cached(pixels)
    epochs = iter(range(1 << 30))

    def epoch() -> int:
        plans = [
            input_pipeline.plan_training(reader.count, BATCH, 0, next(epochs))
            for _ in range(repeats)
        ]
        plan = input_pipeline.Plan(
            np.concatenate([p.indices for p in plans]),
            np.concatenate([p.weights for p in plans]),
        )
        dataset = input_pipeline.create(reader, plan, images)
        if in_graph:
            consume_in_graph(dataset)
        else:
            consume(batch.image for batch in dataset)
        return reader.count * repeats  # without what fills the last batches

    return epoch


def ffcv(
    python: str, photos: str, size: int, runs: int
) -> dict[str, list[float]]:
    """FFCV, by an interpreter of its own."""
    script = pathlib.Path(__file__).with_name("ffcv_peer.py")
    done = subprocess.run(
        [python, str(script), photos, str(size), str(runs)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def prepare_all(
    photos: str,
    size: int,
    scratch: str,
    kinds: Sequence[str] = ("original", "jpeg", "raw"),
) -> dict[str, str]:
    """Returns data sets of the photos, by how their records are stored.

    Args:
        photos: Folder of class folders.
        size: Of the images in pixels, where they are stored anew.
        scratch: Folder for the data sets.
        kinds: Encodings, as --encoding of data_prep.
    """
    places = {}
    for kind in kinds:
        places[kind] = f"{scratch}/{kind}"
        prepare(
            PrepareConfig(
                source=photos,
                output_dir=places[kind],
                splits="train:1.0",
                on_leak="keep",
                encoding=kind,
                image_size=0 if kind == "original" else size,
            )
        )
    return places


def makers_of_all(
    photos: str, places: dict[str, str], size: int, scratch: str
) -> dict[str, Callable[[], Callable[[], int]]]:
    """Returns all candidates by name, see `measure.in_turns`.

    Args:
        photos: Folder of class folders of JPEGs.
        places: What `prepare_all` returned of them.
        size: Of the batches, in pixels.
        scratch: Folder for what a peer writes.
    """
    part = functools.partial
    original = places["original"]
    makers = {
        "ours": part(ours, original, size, "fast"),
        "ours, as served": part(ours, original, size, "exact"),
        "ours, JPEG records of that size": part(
            ours, places["jpeg"], size, "fast"
        ),
        "ours, raw records": part(ours, places["raw"], size, "fast"),
        "ours, from memory": part(ours, original, size, "memory", 100),
        "ours, from memory, to Python": part(
            ours, original, size, "memory", 100, in_graph=False
        ),
        "limit: simplejpeg alone, full": part(
            input_peers.decoding_alone, photos
        ),
        "Keras image_dataset_from_directory": part(
            input_peers.keras_directory, photos, size
        ),
        "Keras ImageDataGenerator": part(
            input_peers.image_data_generator, photos, size
        ),
        "tf.data TFRecord": part(input_peers.tf_data, original, size),
        "tf.data cache in memory": part(input_peers.tf_cache, original, size),
        "PyTorch DataLoader, PIL": part(input_peers.pytorch, photos, size),
        "WebDataset, PIL": part(input_peers.webdataset, photos, size, scratch),
        "Grain threads, OpenCV": part(input_peers.grain_threads, photos, size),
        "DALI, CPU": part(input_peers.dali, photos, size),
    }
    for name, place in places.items():
        makers[f"tf.data by the batch, {name} records"] = part(
            input_peers.tf_data_batched, place, size
        )
        makers[f"ours, {name} records, nothing decoded"] = part(
            ours, place, size, "nothing", 20
        )
    return makers


def compare(
    makers: dict[str, Callable[[], Callable[[], int]]],
    size: int,
    rounds: int,
    runs: int,
) -> Comparison:
    """Returns images/s of candidates, ours first; see `makers_of_all`."""
    title = f"Input, batches of {BATCH} at {size} px"
    return measure.in_turns(title, "images/s", makers, rounds, runs)


def main() -> None:
    """Measures and prints."""
    values = flags.FLAGS
    if not values.photos:
        raise UsageError("--photos is missing: a folder of class folders.")
    startup.import_tensorflow()
    size, photos = values.image_size, values.photos
    with tempfile.TemporaryDirectory() as scratch:
        places = prepare_all(photos, size, scratch)
        makers = {
            name: make
            for name, make in makers_of_all(
                photos, places, size, scratch
            ).items()
            if values.only in name or name == "ours"
        }
        found = compare(makers, size, values.rounds, values.runs)
        if values.ffcv_python:
            runs = values.rounds * values.runs
            for name, rates in ffcv(
                values.ffcv_python, photos, size, runs
            ).items():
                found.figures[f"FFCV, {name}"] = rates
        else:
            found.left_out.append("FFCV (--ffcv_python names no interpreter)")
        packages = ["tensorflow", "keras", "opencv-python-headless", "tf_keras"]
        packages += ["torch", "webdataset", "grain", "nvidia-dali-cuda120"]
        print(machine.line(*packages, "simplejpeg"))
        print(measure.table(found))
        for name, place in places.items():
            print(f"\n{name} records:\n{input_stages.bottleneck(place, size)}")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Folder of class folders of JPEGs.")
    flags.DEFINE_integer("image_size", 150, "Of the batches, in pixels.")
    flags.DEFINE_string(
        "ffcv_python", None, "Interpreter that has FFCV; see ffcv_peer.py."
    )
    flags.DEFINE_string("only", "", "Rows that have this in their names.")
    flags.DEFINE_integer("rounds", 3, "Turns of each candidate.")
    flags.DEFINE_integer("runs", 4, "Passes that count, in each turn.")
    command.run(main)
