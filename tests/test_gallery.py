"""Pictures of a report: which image, of what class, beside which others.

The network is one that can be worked out by hand, and no run is trained.
"""

import base64
import io
import types

import numpy as np
import pytest
from PIL import Image

from trainer.groups import Augmentation
from trainer.pipeline import input_pipeline
from trainer.reporting.predictions import Example

SIZE = 8
CLASSES = ["red", "green"]


class Images:
    """Images of one colour each, as `Reader` has them.

    Args:
        colours: RGB of each; what is greater decides on the class.
    """

    def __init__(self, split, colours):
        from data_prep.dataset import records

        self.split = split
        self.colours = np.array(colours, np.uint8)
        self.count = len(colours)
        self.labels = (self.colours[:, 1] > self.colours[:, 0]).astype(np.int32)
        self.names = [
            f"{CLASSES[k]}/{split}{n}.png" for n, k in enumerate(self.labels)
        ]
        self.ids = np.array([records.image_id(name) for name in self.names])
        self.manifest = types.SimpleNamespace(classes=CLASSES)

    def pixels(self, rows, size):
        shape = (len(rows), size, size, 3)
        return np.broadcast_to(self.colours[rows][:, None, None], shape)

    def image_files(self, rows):
        return [png(image) for image in self.pixels(rows, SIZE)]

    def files_of(self, rows):
        return [self.names[row] for row in rows]


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def colour_of(address):
    """Returns the mean colour of a picture that a page shows."""
    content = base64.b64decode(address.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(content))).mean(axis=(0, 1))


@pytest.fixture
def model(tf):
    """Red and green are its features, and speak for the class of the name."""
    import keras

    image = keras.Input((SIZE, SIZE, 3))
    conv = keras.layers.Conv2D(2, 1, use_bias=False, name="conv")
    maps = conv(image)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(maps)
    logits = keras.layers.Dense(2, use_bias=False, name="logits")
    found = keras.Model(image, logits(x))
    conv.set_weights([np.eye(3, 2, dtype=np.float32)[None, None]])
    logits.set_weights([np.eye(2, dtype=np.float32)])
    return found


# In steps of a right angle's tenth, so that each has nearest ones of its own.
TRAIN = Images(
    "train",
    [
        (round(200 * np.cos(a)), round(200 * np.sin(a)), 10 * n)
        for n, a in enumerate(np.linspace(0, np.pi / 2, 10))
    ],
)
# Their names are such that their ids are in another order than they.
TEST = Images("shown", [(250, 0, 0), (0, 250, 99), (180, 60, 30)])
# The last one's mistake; in an order that is not that of the records.
SHOWN = [
    Example(TEST.names[2], "red", "green", 0.9, 0.1),
    Example(TEST.names[0], "red", "red", 0.8, 0.8),
]


def gallery_of(model, kept=()):
    from trainer.reporting import gallery

    extractor = types.SimpleNamespace(kept=lambda *_: list(kept))
    return gallery.Gallery(model, TEST, TRAIN, extractor)


def cosines_of(row):
    """Of an image of the test split with all of training."""
    asked, rows = TEST.colours[row, :2], TRAIN.colours[:, :2].astype(float)
    return rows @ asked / np.linalg.norm(rows, axis=1) / np.linalg.norm(asked)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("with_kept", [False, True])
def test_the_nearest_are_shown_with_what_is_their_own(
    model, monkeypatch, every, with_kept
):
    """Also where one image of `every` is compared."""
    from trainer.reporting import gallery

    most = -(-TRAIN.count // every)
    monkeypatch.setattr(gallery, "_KEPT" if with_kept else "_SAMPLE", most)
    features = TRAIN.colours[:, :2].astype(np.float16)
    kept = [types.SimpleNamespace(take=features.__getitem__)]
    shown = gallery_of(model, kept if with_kept else ()).show(SHOWN, True)
    among = np.arange(0, TRAIN.count, every)
    for one, row in zip(shown, (2, 0), strict=True):
        assert one["file"] == TEST.names[row]
        np.testing.assert_allclose(
            colour_of(one["image"]), TEST.colours[row], atol=4
        )
        cosines = cosines_of(row)
        wanted = among[np.argsort(-cosines[among])][:3]
        assert [near["file"] for near in one["nearest"]] == [
            TRAIN.names[n] for n in wanted
        ]
        for near, number in zip(one["nearest"], wanted, strict=True):
            assert near["label"] == CLASSES[TRAIN.labels[number]]
            assert near["similarity"] == pytest.approx(
                cosines[number], abs=1e-3
            )
            np.testing.assert_allclose(
                colour_of(near["image"]), TRAIN.colours[number], atol=4
            )
    assert [one["nearest"] for one in gallery_of(model).show(SHOWN, False)] == [
        [],
        [],
    ]
    assert gallery_of(model).show([], True) == []


def test_heat_is_of_the_class_that_was_predicted(model, monkeypatch):
    """Of a mistake too: what it was taken for is what is to be seen."""
    from trainer.inference import grad_cam
    from trainer.reporting import gallery

    monkeypatch.setattr(gallery, "_BATCH", 1)
    asked = []
    heat = grad_cam.heat

    def noted(model, images, classes):
        asked.append((images[0, 0, 0].tolist(), classes.tolist()))
        return heat(model, images, classes)

    monkeypatch.setattr(grad_cam, "heat", noted)
    mistake, right = gallery_of(model).show(SHOWN, False)
    assert asked == [
        (TEST.colours[2].tolist(), [1]),
        (TEST.colours[0].tolist(), [0]),
    ]
    # It lies over the image that it is of.
    hot = 255 * np.array([0.988, 1.0, 0.645])  # the end of "inferno"
    for one, row in ((mistake, 2), (right, 0)):
        np.testing.assert_allclose(
            colour_of(one["heat"]), (TEST.colours[row] + hot) / 2, atol=6
        )


@pytest.mark.parametrize("mixes", [{}, {"mixup": 1.0}])
def test_each_column_is_an_epoch_s_view(model, mixes):
    """As training makes it of the same image, mixed with the one before."""
    from trainer.engine import trained_part
    from trainer.reporting import augmented

    noise = np.random.default_rng(0).integers(0, 255, (10, SIZE, SIZE, 3))
    noise = noise.astype(np.uint8)
    reader = Images("train", TRAIN.colours)
    reader.pixels = lambda rows, size: noise[rows]
    settings = Augmentation(augment="light", **mixes)
    found = augmented.picture(reader, settings, SIZE, 7, images=4, views=3)
    step = SIZE + augmented.GAP
    assert found.shape == (
        4 * step + augmented.GAP,
        4 * step + augmented.GAP,
        3,
    )

    def cell(row, column):
        top, left = (augmented.GAP + n * step for n in (row, column))
        return found[top : top + SIZE, left : left + SIZE]

    rows = input_pipeline.plan_training(10, 4, 7, 0).indices[0]
    augment = trained_part.make_augment(settings, 7, 2)
    seen = [cell(row, 0) for row in range(4)]
    for row, image in zip(rows, seen, strict=True):
        np.testing.assert_array_equal(image, noise[row])
    for epoch in range(3):
        batch = [noise[rows], reader.labels[rows], reader.ids[rows]]
        if mixes:
            before = np.roll(rows, 1)
            both = np.concatenate([before[:1], rows])
            batch = [noise[both], reader.labels[both], reader.ids[both]]
        wanted = np.clip(np.rint(augment(*batch, epoch)[0]), 0, 255)
        for row in range(4):
            np.testing.assert_array_equal(cell(row, epoch + 1), wanted[row])
            assert all((cell(row, epoch + 1) != one).any() for one in seen)
        seen += [cell(row, epoch + 1) for row in range(4)]


def test_nothing_is_shown_where_nothing_augments(model):
    shown = gallery_of(model)
    assert shown.augmented(Augmentation(augment="none"), 0) is None
    mixing = shown.augmented(Augmentation(augment="none", cutmix=1.0), 0)
    assert mixing.shape[2] == 3
