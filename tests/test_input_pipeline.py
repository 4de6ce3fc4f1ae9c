"""Order, exactly-once and pixels, by images that encode their own index."""

import collections
import io
import os

import numpy as np
import pytest
from conftest import write_classes
from PIL import Image

from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import records
from data_prep.prepare import prepare
from data_prep.runtime.errors import DataError

COUNT = 40  # images of the train split


@pytest.fixture(scope="module", params=["original", "raw"])
def data(request, tmp_path_factory, tf):
    """A data set of several shards whose red channel is the image's index."""
    root = tmp_path_factory.mktemp(request.param)
    write_classes(root / "photos" / "train", count=COUNT // 2)
    write_classes(root / "photos" / "validation", count=3, first=COUNT)
    raw = request.param == "raw"
    prepare(
        PrepareConfig(
            source=str(root / "photos"),
            output_dir=str(root / "data"),
            encoding=request.param,
            image_size=48 if raw else 0,
            workers=1,
        )
    )
    return root / "data"


def collect(
    data, plan, image_size=48, replicas=1, split="train", source="fast"
):
    """Returns the batches as arrays."""
    from trainer.pipeline import cache
    from trainer.pipeline import input_pipeline
    from trainer.pipeline.reader import Reader

    reader = Reader(str(data), manifest_lib.load(data), split)
    fast = input_pipeline.decoded_fast(reader, image_size)
    images = {
        "fast": lambda: fast,
        "exact": lambda: input_pipeline.decoded_exactly(reader, image_size),
        "cached": lambda: input_pipeline.cached(
            cache.fill(
                reader,
                input_pipeline.create(
                    reader,
                    input_pipeline.plan_evaluation(reader.count, 7),
                    fast,
                ),
                image_size,
                None,
            )
        ),
    }[source]()
    dataset = input_pipeline.create(reader, plan, images, replicas=replicas)
    return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize("source", ["fast", "exact", "cached"])
def test_images_labels_and_ids_belong_together(data, source):
    from trainer.pipeline import input_pipeline

    plan = input_pipeline.plan_training(COUNT, 8, seed=1, epoch=0)
    seen = []
    for batch in collect(data, plan, source=source):
        assert batch.image.shape == (8, 48, 48, 3)
        assert batch.image.dtype == np.uint8
        assert (batch.label.dtype, batch.id.dtype) == (np.int32, np.int64)
        for image, label, number in zip(
            batch.image, batch.label, batch.id, strict=True
        ):
            index = int(image[0, 0, 0])
            assert (image == [index, 255 - index, index // 2]).all()
            assert label == index // (COUNT // 2)
            name = ("cat", "dog")[label]
            file = f"train/{name}/{index % (COUNT // 2):03d}.png"
            assert number == records.image_id(file)
            seen.append(index)
    assert sorted(seen) == list(range(COUNT))


def test_the_order_is_pinned():
    """A changed shuffle would change every published figure."""
    from trainer.pipeline import input_pipeline

    plan = input_pipeline.plan_training(10, 5, seed=42, epoch=0)
    assert plan.indices.tolist() == [[2, 4, 5, 0, 9], [8, 1, 7, 3, 6]]


def test_the_order_depends_on_seed_and_epoch():
    from trainer.pipeline import input_pipeline

    def order(seed, epoch):
        plan = input_pipeline.plan_training(100, 10, seed, epoch)
        return plan.indices.ravel().tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 5)) == list(range(100))


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_share_the_same_global_batches(data, replicas):
    from trainer.pipeline import input_pipeline

    plan = input_pipeline.plan_training(COUNT, 12, seed=3, epoch=2)
    whole = collect(data, plan)
    parts = collect(data, plan, replicas=replicas)
    assert len(parts) == len(whole) * replicas
    for step, batch in enumerate(whole):
        shares = parts[step * replicas : (step + 1) * replicas]
        for field in ("image", "label", "id", "weight"):
            joined = np.concatenate([getattr(s, field) for s in shares])
            np.testing.assert_array_equal(joined, getattr(batch, field))


@pytest.mark.parametrize("batch_size", [8, 13, 39, 40, 41])
def test_every_image_counts_once_whatever_the_batch(data, batch_size):
    """n mod batch is 0, 1 and batch - 1 here, and the batch exceeds n."""
    from trainer.pipeline import input_pipeline

    for plan in (
        input_pipeline.plan_evaluation(COUNT, batch_size),
        input_pipeline.plan_training(COUNT, batch_size, 0, 0),
    ):
        counted = collections.Counter()
        for batch in collect(data, plan):
            real = batch.weight > 0
            np.testing.assert_allclose(batch.weight[real], 1 / real.sum())
            counted.update(batch.id[real].tolist())
        assert len(counted) == COUNT
        assert set(counted.values()) == {1}


@pytest.mark.parametrize("source", ["fast", "exact", "cached"])
def test_resized_images_keep_their_index(data, source):
    from trainer.pipeline import input_pipeline

    plan = input_pipeline.plan_evaluation(6, 6)
    (batch,) = collect(
        data, plan, image_size=37, split="validation", source=source
    )
    assert batch.image.shape == (6, 37, 37, 3)
    assert sorted(batch.image[:, 0, 0, 0] - COUNT) == list(range(6))


def test_plans_are_cut_by_step_and_by_worker():
    from trainer.pipeline import input_pipeline

    plan = input_pipeline.plan_training(50, 12, seed=3, epoch=2)
    rest = plan.from_step(2)
    np.testing.assert_array_equal(rest.indices, plan.indices[2:])
    np.testing.assert_array_equal(rest.weights, plan.weights[2:])
    parts = [plan.of_worker(worker, 3) for worker in range(3)]
    for field in range(2):
        joined = np.concatenate([part[field] for part in parts], axis=1)
        np.testing.assert_array_equal(joined, plan[field])


def test_resuming_decodes_nothing_of_what_came_before(data, monkeypatch):
    from trainer.pipeline import input_pipeline
    from trainer.pipeline.reader import Reader

    read = []
    rows = Reader.rows

    def spy(self, indices):
        read.extend(indices.tolist())
        return rows(self, indices)

    monkeypatch.setattr(Reader, "rows", spy)
    plan = input_pipeline.plan_training(COUNT, 8, seed=1, epoch=0)
    whole = collect(data, plan)
    read.clear()
    rest = collect(data, plan.from_step(3))
    assert sorted(read) == sorted(plan.indices[3:].ravel().tolist())
    for found, wanted in zip(rest, whole[3:], strict=True):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_file_cache_is_used_again(data, tmp_path, capsys):
    from trainer.pipeline import cache
    from trainer.pipeline import input_pipeline
    from trainer.pipeline.reader import Reader

    reader = Reader(str(data), manifest_lib.load(data), "train")
    plan = input_pipeline.plan_evaluation(COUNT, 7)
    fast = input_pipeline.decoded_fast(reader, 48)
    dataset = input_pipeline.create(reader, plan, fast)
    path = tmp_path / "new" / "train.uint8"
    first = cache.fill(reader, dataset, 48, path).numpy()
    in_memory = cache.fill(reader, dataset, 48, None).numpy()
    np.testing.assert_array_equal(first, in_memory)
    assert [p.name for p in path.parent.iterdir()] == ["train.uint8"]

    def fail(positions):
        raise AssertionError("decoded again")

    untouched = input_pipeline.create(reader, plan, lambda p: tf_fail(p, fail))
    again = cache.fill(reader, untouched, 48, path).numpy()
    np.testing.assert_array_equal(again, first)
    whole = path.read_bytes()
    half = len(whole) // 2
    for damaged in (
        whole[:-1],
        whole[:half] + bytes(4096) + whole[half + 4096 :],
        whole[:-4] + bytes(4),
        b"",
    ):
        path.write_bytes(damaged)  # made anew
        repaired = cache.fill(reader, dataset, 48, path).numpy()
        np.testing.assert_array_equal(repaired, first)
        assert (
            "train.uint8 is damaged. Decoding again" in capsys.readouterr().err
        )
        assert path.read_bytes() == whole


def tf_fail(positions, function):
    import tensorflow as tf

    pixels = tf.numpy_function(function, [positions], tf.uint8)
    return tf.ensure_shape(pixels, [7, 48, 48, 3])


def noise_file(size, suffix, **options):
    """An image file of smooth noise, as photos are."""
    generator = np.random.default_rng(0)
    small = generator.integers(
        0, 255, (size[1] // 8, size[0] // 8, 3), np.uint8
    )
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("suffix", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "size",
    [(500, 374), (374, 500), (301, 300), (299, 299), (97, 450), (1203, 1600)],
)
def test_training_sees_what_is_served(tf, size, suffix, resize):
    """OpenCV and TensorFlow agree to 1 of 255, at every reduced scale."""
    from trainer.pipeline import decode
    from trainer.pipeline import fast_decode

    content = noise_file(size, suffix)
    wanted = decode.decode_image(tf.constant(content), 150, resize).numpy()
    found = np.empty((150, 150, 3), np.uint8)
    fast_decode.decode_into(
        np.frombuffer(content, np.uint8), size[1], size[0], resize, found
    )
    difference = abs(found.astype(int) - wanted)
    assert difference.max() <= 2, difference.max()
    assert difference.mean() < 0.5


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_validation_sees_to_the_bit_what_is_served(tmp_path, tf, cache_mb):
    """It decides which epoch is exported; training sees it to 1 of 255."""
    from trainer.groups import Data
    from trainer.pipeline import decode
    from trainer.pipeline.data_loader import DataLoader
    from trainer.pipeline.reader import Reader

    content = noise_file((500, 374), "JPEG")
    for split in ("train", "validation"):
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            # Not the same file twice, which the audit would refuse.
            (folder / "0.jpg").write_bytes(content + (split + label).encode())
    prepare(
        PrepareConfig(
            source=str(tmp_path / "photos"),
            output_dir=str(tmp_path / "data"),
            on_leak="keep",
            workers=1,
        )
    )
    manifest = manifest_lib.load(tmp_path / "data")
    readers = {
        split: Reader(str(tmp_path / "data"), manifest, split)
        for split in ("train", "validation")
    }
    loader = DataLoader(
        Data(
            data_dir=str(tmp_path / "data"), image_size=150, cache_mb=cache_mb
        ),
        readers,
        batch_size=2,
        seed=0,
        replicas=1,
    )
    served = decode.decode_image(tf.constant(content), 150, "stretch").numpy()
    (seen,) = loader.validation(loader.images["validation"])
    assert (seen.image.numpy() == served).all()
    (trained,) = loader.training(loader.images["train"], 0)
    assert (trained.image.numpy() != served).any()  # the control


def rings(width, height):
    """Rings that are finer the farther out: they alias if pixels are skipped."""
    y, x = np.mgrid[:height, :width]
    squares = (x - width / 2) ** 2 + (y - height / 2) ** 2
    wave = 127.5 + 127.5 * np.cos(np.pi * squares / max(width, height))
    return Image.fromarray(np.repeat(wave.astype(np.uint8)[..., None], 3, 2))


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize(
    "size",
    [
        (640, 480),
        (1203, 1601),
        (2400, 3200),
        (3000, 310),
        (301, 300),
        (140, 99),
    ],
)
def test_one_picture_is_the_same_in_every_format(tf, size, resize):
    from trainer.pipeline import decode
    from trainer.pipeline import fast_decode

    found = {}
    for suffix, options in {
        "JPEG": {"quality": 100, "subsampling": 0},
        "PNG": {"compress_level": 1},
        "GIF": {},
        "BMP": {},
        "WEBP": {"lossless": True, "quality": 0},
    }.items():
        buffer = io.BytesIO()
        rings(*size).save(buffer, suffix, **options)
        content = buffer.getvalue()
        served = decode.decode_image(tf.constant(content), 150, resize)
        found[suffix, "served"] = served.numpy().astype(int)
        if suffix in ("JPEG", "PNG"):  # all that records hold
            trained = np.empty((150, 150, 3), np.uint8)
            fast_decode.decode_into(
                np.frombuffer(content, np.uint8), *size[::-1], resize, trained
            )
            found[suffix, "trained"] = trained.astype(int)
    wanted = found["JPEG", "served"]
    for case, pixels in found.items():
        difference = abs(pixels - wanted)
        assert difference.mean() < 0.5, case
        # A JPEG's own blocks end in what its encoder put there.
        assert np.quantile(difference, 0.99) <= 3, case


@pytest.mark.parametrize(
    "size, scale",
    [
        ((500, 374), 2),
        ((298, 298), 1),
        ((299, 299), 2),
        ((300, 300), 2),
        ((9600, 1200), 8),
        ((1199, 1200), 8),
        ((1192, 1200), 4),
    ],
)
def test_jpegs_are_decoded_at_their_own_reduced_scale(
    tf, size, scale, monkeypatch
):
    """The smallest of 1, 1/2, 1/4, 1/8 that still covers 150 pixels."""
    from trainer.pipeline import fast_decode

    seen = []
    real = fast_decode.cv2.imdecode
    monkeypatch.setattr(
        fast_decode.cv2, "imdecode", lambda c, f: seen.append(f) or real(c, f)
    )
    out = np.empty((150, 150, 3), np.uint8)
    content = np.frombuffer(noise_file(size, "JPEG"), np.uint8)
    fast_decode.decode_into(content, size[1], size[0], "stretch", out)
    assert seen == [fast_decode._OPENCV_FLAGS[scale]]


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_fit(tf, resize):
    from trainer.pipeline.decode import fit

    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 200  # the middle square
    found = fit(tf.constant(image), 10, resize).numpy()
    assert (found.shape, found.dtype) == ((10, 10, 3), np.uint8)
    if resize == "crop":
        assert (found == 200).all()
    if resize == "pad":
        assert (found[[0, 1, -1]] == 0).all()
        assert (found[5, 3:7] == 200).all()
    if resize == "stretch":
        assert (found[:, 3:7] == 200).all()
        assert (found[:, [0, 1, -1]] == 0).all()


def test_a_damaged_record_is_named(tmp_path, tf):
    from trainer.pipeline.reader import Reader

    write_classes(tmp_path / "photos", count=10)
    prepare(
        PrepareConfig(
            source=str(tmp_path / "photos"),
            output_dir=str(tmp_path / "data"),
            workers=1,
        )
    )
    data = tmp_path / "data"
    manifest = manifest_lib.load(data)
    reader = Reader(str(data), manifest, "train")
    everything = np.arange(reader.count)
    assert len(reader.contents(everything)) == reader.count
    shard = data / manifest.splits["train"].shards[0].name
    content = bytearray(shard.read_bytes())
    row = manifest_lib.load_index(manifest, data, "train")[7]
    content[row["offset"] + row["bytes"] // 2] ^= 1
    shard.write_bytes(content)
    message = f"{shard.name} is damaged at byte {row['offset']}"
    with pytest.raises(DataError, match=message):
        reader.contents(everything)
    with pytest.raises(DataError, match=message):
        reader.pixels(everything, 48)
    with pytest.raises(DataError, match="no holdout split"):
        Reader(str(data), manifest, "holdout")


@pytest.mark.parametrize("version", [1, 2])
def test_the_cache_keeps_within_every_limit_above(
    tmp_path, monkeypatch, version
):
    """Slurm's, systemd's and a pod's limits are groups within groups."""
    from data_prep.runtime import limits
    from trainer.pipeline import cache

    monkeypatch.setattr(limits, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(limits, "_OWN_GROUPS", tmp_path / "own")
    top = tmp_path / "groups" / ("memory" if version == 1 else "")
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        2: ("memory.max", "memory.current"),
    }[version]
    own = {1: "5:cpu:/a\n4:memory:/job/step\n", 2: "0::/job/step\n"}[version]
    (tmp_path / "own").write_text(own)
    (top / "job" / "step").mkdir(parents=True)
    free = cache.memory_for_cache(-1)

    def limit(group, most, used):
        for name, value in zip(names, (most, used), strict=True):
            (top / group / name).write_text(f"{value}\n")

    limit("", "max", 5)
    limit("job/step", 10**15, 7)
    assert cache.memory_for_cache(-1) == pytest.approx(free, rel=0.2)
    limit("job", 1_000_000, 400_000)  # of the group above
    assert cache.memory_for_cache(-1) == 300_000
    assert cache.memory_for_cache(-1, 3) == 100_000  # workers of one machine
    limit("job/step", 500_000, 600_000)
    assert cache.memory_for_cache(-1) == 0
    assert cache.memory_for_cache(3) == 3 << 20


@pytest.mark.parametrize("version", [1, 2])
def test_processors_are_those_of_every_limit_above(
    tmp_path, monkeypatch, version
):
    from data_prep.runtime import limits

    all_of_them = len(os.sched_getaffinity(0))
    monkeypatch.setattr(limits, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(limits, "_OWN_GROUPS", tmp_path / "own")
    assert limits.processors() == all_of_them  # no groups at all
    top = tmp_path / "groups" / ("cpu" if version == 1 else "")
    own = {1: "5:cpu,cpuacct:/a/b\n4:memory:/c\n", 2: "0::/a/b\n"}[version]
    (tmp_path / "own").write_text(own)
    (top / "a" / "b").mkdir(parents=True)

    def limit(group, quota):
        if version == 2:
            text = f"{quota if quota > 0 else 'max'} 100000\n"
            (top / group / "cpu.max").write_text(text)
            return
        (top / group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (top / group / "cpu.cfs_period_us").write_text("100000\n")

    limit("a/b", -1)
    limit("", 100 * 100_000)
    assert limits.processors() == all_of_them
    limit("a", 100_000)
    assert limits.processors() == 1
    limit("a", 1_000)
    assert limits.processors() == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    limit("a", 250_000)
    assert limits.processors() == 3
