"""data_prep beside two peers, and its memory and time as the set grows.

python -m benchmarks.data_prep speed --photos=FOLDER
python -m benchmarks.data_prep growth --images=1000,100000,1000000
python -m benchmarks.data_prep names --images=1000,100000,1000000

`speed` measures in turns, on the photos in all eight orientations, what comes
after the start of each. The peers: two processes that decode the same files in
full with libjpeg-turbo and do nothing else, and TFDS's own writer, which looks
inside no file. `growth` writes tiny images and reports the most memory that a
process took; `names` does so for all but the opening and writing of files.
"""

import concurrent.futures
import importlib.util
import json
import multiprocessing
import pathlib
import random
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

from absl import app
from absl import flags
from PIL import Image
from PIL import JpegImagePlugin

from benchmarks import machine
from benchmarks import measure
from benchmarks.measure import Comparison
from data_prep.runtime import subprocesses

ROUNDS = 3


def turn_photos(photos: str, folder: pathlib.Path) -> int:
    """Writes every JPEG turned and mirrored in all eight ways.

    Each is another picture with the same detail: copies would all be
    near-duplicates. Quantisation and chroma sampling are the photo's own.
    """
    count = 0
    for path in sorted(pathlib.Path(photos).rglob("*.jpg")):
        place = folder / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as photo:
            how = {
                "qtables": photo.quantization,
                "subsampling": JpegImagePlugin.get_sampling(photo),
            }
            for number, turn in enumerate((None, *Image.Transpose)):
                picture = photo if turn is None else photo.transpose(turn)
                target = place / f"{path.stem}-{number}.jpg"
                picture.save(target, "JPEG", **how)
                count += 1
    return count


def decode_all(paths: list[str]) -> int:
    """Decodes JPEG files in full; returns how many."""
    import simplejpeg

    for path in paths:
        simplejpeg.decode_jpeg(pathlib.Path(path).read_bytes(), "RGB")
    return len(paths)


def processor_seconds() -> float:
    """Returns what the ended child processes have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def decoding_rate(folder: pathlib.Path) -> float:
    """Returns images/s of two processes, their start not counted."""
    paths = [str(path) for path in sorted(folder.rglob("*.jpg"))]
    chunks = [paths[start::64] for start in range(64)]
    with concurrent.futures.ProcessPoolExecutor(
        2, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        list(pool.map(decode_all, [part[:2] for part in chunks]))
        start = time.perf_counter()
        count = sum(pool.map(decode_all, chunks))
        return count / (time.perf_counter() - start)


PREPARE = """
import json, resource, sys, time
from data_prep.config import PrepareConfig
from data_prep.prepare import prepare
if __name__ == "__main__":
    start = time.perf_counter()
    prepare(PrepareConfig(source=sys.argv[1], output_dir=sys.argv[2]))
    wall = time.perf_counter() - start
    used = [resource.getrusage(who)
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps([wall, sum(u.ru_utime + u.ru_stime for u in used),
                      *(u.ru_maxrss / 1024 for u in used)]))
"""


class Prepared(NamedTuple):
    """What preparing a data set took.

    Attributes:
        seconds: Of `prepare`, with the start of its workers.
        start_up: Seconds of the process before and after it.
        processor_seconds: Of all its processes.
        main_mib: Most memory that the main process held.
        worker_mib: The same of the worker that held most.
    """

    seconds: float
    start_up: float
    processor_seconds: float
    main_mib: float
    worker_mib: float


def prepare(source: pathlib.Path) -> Prepared:
    """Prepares a folder in a process of its own, and drops the result."""
    with tempfile.TemporaryDirectory(dir=source.parent) as place:
        script = pathlib.Path(place, "prepare.py")
        script.write_text(PREPARE)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, script, source, f"{place}/data"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=subprocesses.environment(),
        )
        whole = time.perf_counter() - start
    seconds, *rest = json.loads(done.stdout.splitlines()[-1])
    return Prepared(seconds, whole - seconds, *rest)


TFDS_WRITER = """
import pathlib, sys, time
import tensorflow_datasets as tfds
source, place = map(pathlib.Path, sys.argv[1:])
class Photos(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        return tfds.core.DatasetInfo(builder=self,
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=sorted(
                    path.name for path in source.iterdir()))}),
            supervised_keys=("image", "label"))
    def _split_generators(self, _):
        return {"train": self._all()}
    def _generate_examples(self):
        raise NotImplementedError
    def _all(self):
        for path in sorted(source.rglob("*.jpg")):
            yield str(path), {"image": str(path), "label": path.parent.name}
builder = Photos(data_dir=str(place))
start = time.perf_counter()
builder.download_and_prepare()
print("seconds", time.perf_counter() - start)
"""


def tfds_seconds(source: pathlib.Path) -> float:
    """Returns the time of TFDS's writer, TensorFlow's start not counted."""
    with tempfile.TemporaryDirectory(dir=source.parent) as place:
        done = subprocess.run(
            [sys.executable, "-c", TFDS_WRITER, str(source), place],
            check=True,
            capture_output=True,
            text=True,
        )
    return float(done.stdout.split("seconds")[-1])


def compare(photos: str, rounds: int) -> tuple[list[Comparison], list[float]]:
    """Measures ours and the peers in turns, on photos in all orientations.

    Args:
        photos: Folder of class folders of JPEGs.
        rounds: Turns of each.

    Returns:
        Images/s and processor time of an image; and the seconds that ours
        takes to start, which its rate leaves out, as the peers' do.
    """
    with tempfile.TemporaryDirectory() as place:
        source = pathlib.Path(place, "photos")
        count = turn_photos(photos, source)
        title = f"data_prep, {count} images"
        rate = Comparison(title, "images/s", {})
        processor = Comparison(
            f"{title}, processor time, start-up included",
            "us per image",
            {},
            less_is_better=True,
        )
        starts = []

        def add(name: str, run: Callable[[], float]) -> None:
            before = processor_seconds()
            rate.figures.setdefault(name, []).append(run())
            used = (processor_seconds() - before) / count * 1e6
            processor.figures.setdefault(name, []).append(used)
            print(
                f"{name}: {rate.figures[name][-1]:,.0f}",
                file=sys.stderr,
                flush=True,
            )

        def ours() -> float:
            took = prepare(source)
            starts.append(took.start_up)
            return count / took.seconds

        peers = {"two processes, full decode": lambda: decoding_rate(source)}
        if importlib.util.find_spec("tensorflow_datasets"):
            peers["TFDS writer"] = lambda: count / tfds_seconds(source)
        else:
            rate.left_out.append("TFDS writer (not installed)")
        for _ in range(rounds):
            add("ours", ours)
            for name, run in peers.items():
                add(name, run)
    return [rate, processor], starts


def speed(photos: str) -> None:
    """Prints what `compare` found."""
    found, starts = compare(photos, ROUNDS)
    print(
        machine.line(
            "simplejpeg", "pillow", "tensorflow", "tensorflow-datasets"
        )
    )
    for one in found:
        print(measure.table(one))
    print(
        f"start-up: {statistics.median(starts):.2f} s (median; least "
        f"{min(starts):.2f}, most {max(starts):.2f})"
    )


def tiny_png(number: int) -> bytes:
    """Returns a grey PNG of 16x16 random pixels, the same for each number."""
    generator = random.Random(number)
    rows = b"".join(b"\0" + generator.randbytes(16) for _ in range(16))

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)),
            chunk(b"IDAT", zlib.compress(rows, 0)),
            chunk(b"IEND", b""),
        )
    )


def growth(numbers: list[int]) -> None:
    """Prints time per image and peak memory for sets of several sizes."""
    print(machine.line("simplejpeg", "pillow", "numpy"))
    print(
        f"{'images':>9}  {'us/image':>8}  {'CPU us/image':>12}  "
        f"{'MiB, main':>9}  MiB, largest worker"
    )
    with tempfile.TemporaryDirectory() as place:
        source = pathlib.Path(place, "tiny")
        written = 0
        for number in sorted(numbers):
            for image in range(written, number):
                path = source / str(image % 10) / str(image // 10_000)
                if image // 10 % 1000 == 0:
                    path.mkdir(parents=True, exist_ok=True)
                (path / f"{image}.png").write_bytes(tiny_png(image))
            written = number
            took = prepare(source)
            print(
                f"{number:>9}  {took.seconds / number * 1e6:8.0f}  "
                f"{took.processor_seconds / number * 1e6:12.0f}  "
                f"{took.main_mib:9.0f}  {took.worker_mib:19.0f}",
                flush=True,
            )


NAMES = """
import json, os, random, resource, sys, tempfile, time
from data_prep.catalogue import assignment, comparison, findings
from data_prep.catalogue.database import Catalogue, facts_row
from data_prep.config import Records, Splits
from data_prep.images.fingerprint import Fingerprint
from data_prep.images.inspection import Facts
from data_prep.sources.listing import ImageFile
from data_prep.writers import split_writer
count, place = int(sys.argv[1]), sys.argv[2]
generator = random.Random(0)
def images():
    for n in range(count):
        yield ImageFile(f"/photos/{n % 10}/{n}.jpg", f"{n % 10}/{n}.jpg", str(n % 10))
start = time.process_time()
with Catalogue(place) as catalogue:
    catalogue.add_files(images())
    for row in catalogue.files():
        content = generator.randbytes(32)
        print_ = Fingerprint(
            generator.getrandbits(64) - (1 << 63), generator.randbytes(256))
        facts = Facts(20_000, 200, 150, "", content, True, (), print_)
        catalogue.insert("facts", [facts_row(row, facts, 0)])
    comparison.compare_images(catalogue, False, 0.99)
    splits = Splits(splits="train:0.8,test:0.2")
    assignment.assign(catalogue, splits, "names", place)
    plans = split_writer.plan_splits("names", Records(), catalogue)
    items = sum(len(shard.items) for shard in split_writer.draw_shards(
        catalogue, plans, [str(n) for n in range(10)]))
    assert items == count
    findings.save(catalogue, os.path.join(place, "audit.json"))
size = os.path.getsize(os.path.join(place, "catalogue.sqlite"))
print(json.dumps([time.process_time() - start,
                  resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                  size / count]))
"""


def names(numbers: list[int]) -> None:
    """Prints the same for all but opening and writing, on made-up facts."""
    print(f"{'names':>9}  CPU us/image  MiB  bytes/image in the catalogue")
    for number in sorted(numbers):
        with tempfile.TemporaryDirectory() as place:
            done = subprocess.run(
                [sys.executable, "-c", NAMES, str(number), place],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
        cpu, mib, size = json.loads(done.stdout)
        print(
            f"{number:>9}  {cpu / number * 1e6:12.0f}  {mib:3.0f}  {size:.0f}",
            flush=True,
        )


def main(argv: list[str]) -> None:
    """Runs what the first word asks for."""
    if argv[1:] == ["speed"]:
        speed(flags.FLAGS.photos)
    elif argv[1:] == ["growth"]:
        growth([int(n) for n in flags.FLAGS.images.split(",")])
    elif argv[1:] == ["names"]:
        names([int(n) for n in flags.FLAGS.images.split(",")])
    else:
        raise app.UsageError("expected speed, growth or names")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Folder of class folders of JPEGs.")
    flags.DEFINE_string("images", "1000,100000", "Sizes for growth.")
    app.run(main)
