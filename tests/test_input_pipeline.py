"""Order, exactly-once and pixels, by images that encode their own index."""

import collections

import numpy as np
import pytest
from conftest import write_classes

from data_prep import manifest as manifest_lib
from data_prep import records
from data_prep.errors import DataError
from data_prep.prepare import PrepareConfig
from data_prep.prepare import prepare

COUNT = 40  # images of the train split


@pytest.fixture(scope="module", params=["original", "raw"])
def data(request, tmp_path_factory, tf):
    """A data set of several shards whose red channel is the image's index."""
    root = tmp_path_factory.mktemp(request.param)
    write_classes(root / "photos" / "train", count=COUNT // 2)
    write_classes(root / "photos" / "validation", count=3)
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


def collect(data, plan, image_size=48, replicas=1, split="train"):
    """Returns the batches as arrays, and the manifest."""
    from trainer import input_pipeline

    manifest = manifest_lib.load(data)
    reader = input_pipeline.Reader(str(data), manifest, split)
    dataset = input_pipeline.create(
        reader,
        plan,
        manifest=manifest,
        image_size=image_size,
        replicas=replicas,
    )
    return list(dataset.as_numpy_iterator())


def test_images_labels_and_ids_belong_together(data):
    from trainer import input_pipeline

    plan = input_pipeline.plan_training(COUNT, 8, seed=1, epoch=0)
    seen = []
    for batch in collect(data, plan):
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
    from trainer import input_pipeline

    plan = input_pipeline.plan_training(10, 5, seed=42, epoch=0)
    assert plan.positions.tolist() == [[2, 4, 5, 0, 9], [8, 1, 7, 3, 6]]


def test_the_order_depends_on_seed_and_epoch():
    from trainer import input_pipeline

    def order(seed, epoch):
        plan = input_pipeline.plan_training(100, 10, seed, epoch)
        return plan.positions.ravel().tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 5)) == list(range(100))


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_share_the_same_global_batches(data, replicas):
    from trainer import input_pipeline

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
    from trainer import input_pipeline

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


def test_resized_images_keep_their_index(data):
    from trainer import input_pipeline

    plan = input_pipeline.plan_evaluation(6, 6)
    (batch,) = collect(data, plan, image_size=37, split="validation")
    assert batch.image.shape == (6, 37, 37, 3)
    assert sorted(batch.image[:, 0, 0, 0]) == list(range(6))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_fit(tf, resize):
    from trainer.decode import fit

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
    from trainer import input_pipeline

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
    reader = input_pipeline.Reader(str(data), manifest, "train")
    assert len(reader.read(np.arange(reader.count))) == reader.count
    shard = data / manifest.splits["train"].shards[0].name
    content = bytearray(shard.read_bytes())
    row = manifest_lib.load_index(manifest, data, "train")[7]
    content[row["offset"] + row["bytes"] // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(
        DataError, match=f"{shard.name} is damaged at byte {row['offset']}"
    ):
        reader.read(np.arange(reader.count))
    with pytest.raises(DataError, match="no holdout split"):
        input_pipeline.Reader(str(data), manifest, "holdout")
