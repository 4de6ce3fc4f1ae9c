"""Augmentation: exact pixels for fixed parameters, pure random numbers."""

import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture
def affine(tf):
    from trainer.augmentation import affine

    return affine


def create(name, seed=0, classes=3, **options):
    """The augmentation of a policy, as a function of image, ids and epoch."""
    from trainer.augmentation import policies

    augment = policies.create(
        policies.Policy(name, seed=seed, **options), classes
    )

    def images_only(image, ids, epoch):
        return augment(image, np.zeros(len(image), np.int32), ids, epoch)[0]

    return images_only


def fixed(affine, count=1, **values):
    """Parameters that leave an image as it is, but for `values`."""
    neutral = {
        "theta": 0.0,
        "tx": 0.0,
        "ty": 0.0,
        "shear": 0.0,
        "zx": 1.0,
        "zy": 1.0,
        "flip_horizontal": 0.0,
        "flip_vertical": 0.0,
    }
    return affine.AffineParameters(
        **{
            name: np.full(count, value, np.float32)
            for name, value in {**neutral, **values}.items()
        }
    )


IMAGE = np.arange(4 * 4 * 3, dtype=np.float32).reshape(1, 4, 4, 3)


@pytest.mark.parametrize(
    "values, expected",
    [
        ({}, IMAGE),
        ({"flip_horizontal": 1.0}, IMAGE[:, :, ::-1]),
        ({"flip_vertical": 1.0}, IMAGE[:, ::-1]),
        ({"theta": 180.0}, IMAGE[:, ::-1, ::-1]),
        ({"theta": 90.0}, np.rot90(IMAGE, axes=(1, 2))),
        # Output column c shows input column c + 1; the last one repeats.
        ({"tx": 0.25}, IMAGE[:, :, [1, 2, 3, 3]]),
        ({"ty": -0.25}, IMAGE[:, [0, 0, 1, 2]]),
    ],
)
def test_exact_pixels(affine, values, expected):
    found = affine.apply(IMAGE, fixed(affine, **values), "nearest").numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_flipping_alone_is_exact(affine):
    images = np.concatenate([IMAGE] * 4)
    coins = {
        "flip_horizontal": np.array([0, 1, 0, 1], np.float32),
        "flip_vertical": np.array([0, 0, 1, 1], np.float32),
    }
    found = affine.flip(images, fixed(affine, 4, **coins)).numpy()
    wanted = [IMAGE[0], IMAGE[0, :, ::-1], IMAGE[0, ::-1], IMAGE[0, ::-1, ::-1]]
    np.testing.assert_array_equal(found, wanted)


def smooth_image(height, width):
    rough = np.random.default_rng(0).uniform(0, 255, (height, width, 3))
    return ndimage.gaussian_filter(rough, (1, 1, 0)).astype(np.float32)


def image_data_generator(image, values, fill_mode):
    """What the library itself makes of an image."""
    from tf_keras.preprocessing.image import ImageDataGenerator

    height, width = image.shape[:2]
    shifts = {
        "tx": values.get("tx", 0.0) * width,
        "ty": values.get("ty", 0.0) * height,
    }
    generator = ImageDataGenerator(fill_mode=fill_mode)
    return generator.apply_transform(image, {**values, **shifts})


EACH = [
    {"theta": 30.0},
    {"theta": -75.0},
    {"tx": 0.1},
    {"ty": 0.1},
    {"shear": 20.0},
    {"zx": 1.3},
    {"zy": 0.7},
    {"flip_horizontal": 1.0},
    {"flip_vertical": 1.0},
]


@pytest.mark.parametrize(
    "ours, library, tolerance",
    [
        ("nearest", "nearest", 0.01),
        ("reflect", "reflect", 0.01),
        ("constant", "constant", 0.1),  # whether a border is inside is rounding
        # SciPy's "wrap" has a period of n - 1. Between the last pixel and the
        # first, TensorFlow does not interpolate.
        ("wrap", "grid-wrap", 3.0),
    ],
)
def test_agrees_with_image_data_generator(affine, ours, library, tolerance):
    """With the library, by each parameter alone and by all together."""
    generator = np.random.default_rng(1)
    together = [
        {
            "theta": generator.uniform(-180, 180),
            "tx": generator.uniform(-0.3, 0.3),
            "ty": generator.uniform(-0.3, 0.3),
            "shear": generator.uniform(-40, 40),
            "zx": generator.uniform(0.6, 1.6),
            "zy": generator.uniform(0.6, 1.6),
            "flip_horizontal": float(generator.integers(2)),
            "flip_vertical": float(generator.integers(2)),
        }
        for _ in range(20)
    ]
    image = smooth_image(48, 48)
    for values in EACH + together:
        found = affine.apply(image[np.newaxis], fixed(affine, **values), ours)
        wanted = image_data_generator(image, values, library)
        difference = abs(found[0].numpy() - wanted)  # of 255
        assert difference.mean() < tolerance, values
        assert np.median(difference) < 0.01, values
        if "flip" not in min(values):  # the control: it is no identity
            assert abs(wanted - image).mean() > 5, values


@pytest.mark.parametrize("values", [{"theta": 180.0}, {"zx": -1.0, "zy": -1.0}])
def test_oblong_images_turn_about_their_centre(affine, values):
    """Where the library's centre is elsewhere, and rows are lost."""
    image = smooth_image(40, 64)
    found = affine.apply(image[np.newaxis], fixed(affine, **values), "constant")
    np.testing.assert_allclose(
        found[0, 1:-1, 1:-1], image[-2:0:-1, -2:0:-1], atol=0.1
    )
    library = image_data_generator(image, values, "constant")
    assert abs(library - image[::-1, ::-1]).mean() > 5


def test_ranges_are_those_of_their_own_parameter(affine, tf):
    """Each range draws its parameter, on both sides, and no other."""
    ids = tf.range(1000, dtype=tf.int64)
    neutral = fixed(affine)
    for name, drawn, greatest in (
        ("rotation_range", "theta", 30.0),
        ("width_shift_range", "tx", 0.2),
        ("height_shift_range", "ty", 0.2),
        ("shear_range", "shear", 10.0),
    ):
        found = affine.sample(
            affine.AffineRanges(**{name: greatest}), 0, 0, ids
        )
        for parameter in vars(neutral):
            values = np.asarray(getattr(found, parameter))
            if parameter == drawn:
                assert -greatest <= values.min() < -0.98 * greatest
                assert 0.98 * greatest < values.max() <= greatest
            else:
                np.testing.assert_array_equal(
                    values, np.full(1000, getattr(neutral, parameter))
                )


def test_zoom_and_flips_are_drawn_for_each_side(affine, tf):
    ids = tf.range(1000, dtype=tf.int64)
    found = affine.sample(affine.AffineRanges(zoom_range=0.2), 0, 0, ids)
    zx, zy = np.asarray(found.zx), np.asarray(found.zy)
    for values in (zx, zy):
        assert 0.8 <= values.min() < 0.804 and 1.196 < values.max() <= 1.2
    assert abs(np.corrcoef(zx, zy)[0, 1]) < 0.1
    both = affine.AffineRanges(horizontal_flip=True, vertical_flip=True)
    found = affine.sample(both, 0, 0, ids)
    flips = np.stack([found.flip_horizontal, found.flip_vertical])
    assert (abs(flips.mean(axis=1) - 0.5) < 0.05).all()
    assert abs(np.corrcoef(flips)[0, 1]) < 0.1
    one = affine.sample(affine.AffineRanges(horizontal_flip=True), 0, 0, ids)
    assert not np.asarray(one.flip_vertical).any()


def test_random_numbers_match_a_reference(tf):
    """The TensorFlow code against plain 64-bit integers."""
    from trainer.augmentation import random_bits

    mask = (1 << 64) - 1

    def mix(value):
        value &= mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    ids = [0, 1, 2**62 + 12345, 2**63 - 1]
    for seed, epoch in ((0, 0), (7, 3), (2**63 + 5, 11)):
        found = random_bits.uniform(seed, epoch, tf.constant(ids), 3).numpy()
        for row, number in enumerate(ids):
            run = mix(mix(seed) + epoch)
            per_image = mix(number ^ run)
            for column in range(3):
                bits = mix(per_image + 0x9E3779B97F4A7C15 * (column + 1))
                assert found[row, column] == (bits >> 40) / 2**24


def test_random_numbers_are_uniform_and_independent(tf):
    from trainer.augmentation import random_bits

    ids = tf.range(20_000, dtype=tf.int64)
    values = random_bits.uniform(0, 0, ids, 8).numpy()
    assert values.min() >= 0 and values.max() < 1
    for column in values.T:
        counts, _ = np.histogram(column, 20, (0, 1))
        # Chi-squared with 19 degrees of freedom is above 50 once in 7000.
        assert ((counts - 1000) ** 2 / 1000).sum() < 50
    next_epoch = random_bits.uniform(0, 1, ids, 8).numpy()
    together = np.concatenate([values, next_epoch], axis=1)
    correlation = np.corrcoef(together.T) - np.eye(16)
    assert abs(correlation).max() < 0.03


@pytest.mark.parametrize("name", ["flip", "classic", "jitter", "randaugment"])
def test_an_image_gets_the_same_wherever_it_stands(tf, name):
    augment = create(name, seed=5)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (6, 32, 32, 3), np.uint8)
    ids = np.array([4, 9, 2**62, 17, 1, 8])
    whole = augment(images, ids, 3).numpy()
    order = [3, 0, 5]
    part = tf.function(augment)(
        images[order], ids[order], tf.constant(3)
    ).numpy()
    np.testing.assert_allclose(part, whole[order], atol=1e-2)
    other_epoch = augment(images, ids, 4).numpy()
    other_image = augment(images[:1], ids[1:2], 3).numpy()
    if name != "flip":
        assert abs(other_epoch - whole).mean() > 5
        assert abs(other_image - whole[:1]).mean() > 5


def test_replicas_draw_for_their_own_images(tf):
    """Under two replicas every image gets what it gets on one."""
    from trainer.distribution import devices

    augment = create("classic", seed=5)
    strategy = devices.mirrored(["CPU:0", "CPU:1"])
    generator = np.random.default_rng(0)
    one = generator.integers(0, 255, (1, 32, 32, 3), np.uint8)
    images = np.repeat(one, 4, axis=0)  # the same picture under four ids
    ids = np.arange(4)
    alone = augment(images, ids, 0).numpy()

    def value(context):
        half = slice(2 * context.replica_id_in_sync_group, None)
        return images[half][:2], ids[half][:2]

    parts = strategy.experimental_distribute_values_from_function(value)
    outputs = tf.function(
        lambda args: strategy.run(lambda a: augment(a[0], a[1], 0), (args,))
    )(parts)
    both = np.concatenate(
        [o.numpy() for o in strategy.experimental_local_results(outputs)]
    )
    np.testing.assert_allclose(both, alone, atol=1e-2)
    for first in range(4):
        for second in range(first):
            assert abs(both[first] - both[second]).mean() > 5


NAMES = ["none", "flip", "light", "classic", "jitter", "randaugment"]


@pytest.mark.parametrize(
    "policy", ["float32", "mixed_float16", "mixed_bfloat16"]
)
@pytest.mark.parametrize("name", NAMES)
def test_type_shape_and_range(tf, name, policy):
    """Eager and in a graph, in the compute type of the policy."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        augment = create(name)
        images = np.random.default_rng(0).integers(
            0, 256, (8, 33, 47, 3), np.uint8
        )
        eager = augment(images, np.arange(8), 0)
        graph = tf.function(augment)(images, np.arange(8), tf.constant(0))
    finally:
        keras.config.set_dtype_policy(before)
    for found in (eager, graph):
        assert found.shape == images.shape
        # Whole numbers need no change of type.
        compute = policy.removeprefix("mixed_") if name != "none" else "float32"
        assert found.dtype == compute
        values = tf.cast(found, tf.float32).numpy()
        assert values.min() >= 0 and values.max() <= 255
        changed = abs(values - images).mean() > 1
        assert changed == (name != "none")
    np.testing.assert_allclose(
        tf.cast(eager, tf.float32), tf.cast(graph, tf.float32), atol=1.5
    )


def test_policies_are_those_of_the_flag():
    from trainer.groups import AUGMENTS

    assert sorted(AUGMENTS) == sorted(NAMES)


def test_strength(affine):
    from trainer.augmentation.policies import AFFINE

    ranges = AFFINE["classic"].scaled(0.5)
    assert (ranges.rotation_range, ranges.zoom_range) == (20.0, 0.1)
    assert ranges.horizontal_flip
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    weak, strong = (
        create("jitter", strength=strength)(images, np.arange(8), 0).numpy()
        for strength in (0.0, 3.0)
    )
    flipped = create("light", strength=0.0)(images, np.arange(8), 0).numpy()
    np.testing.assert_allclose(weak, flipped, atol=1e-3)
    assert abs(strong - flipped).mean() > 10
    # Nothing but the flip has no strength, and `flip` takes that one too.
    mirrored = [
        (one == image[:, ::-1]).all()
        for one, image in zip(flipped, images, strict=True)
    ]
    kept = [
        (one == image).all() for one, image in zip(flipped, images, strict=True)
    ]
    assert 0 < sum(mirrored) < 8 and sum(mirrored) + sum(kept) == 8
    for name in ("flip", "light", "jitter"):
        plain = create(name, strength=0.0, flip=False)(images, np.arange(8), 0)
        np.testing.assert_allclose(plain, images, atol=1e-3)


def keras_cv_layer(name):
    import keras_cv

    return {
        "solarize": lambda: keras_cv.layers.Solarization((0, 255), 60, 100),
        "equalize": lambda: keras_cv.layers.Equalization((0, 255)),
        "auto_contrast": lambda: keras_cv.layers.AutoContrast((0, 255)),
        "color": lambda: keras_cv.layers.RandomColorDegeneration((0.4, 0.4)),
    }[name]()


@pytest.mark.parametrize("name", ["equalize", "auto_contrast", "color"])
def test_colour_operations_are_those_of_keras_cv(tf, name):
    from trainer.augmentation import colour

    images = np.random.default_rng(0).integers(40, 200, (4, 32, 32, 3))
    images = tf.constant(images, tf.float32)
    wanted = keras_cv_layer(name)(images, training=True).numpy()
    choice = tf.fill([4], colour.OPERATIONS.index(name))
    level = tf.fill([4], 0.4)
    found = colour.apply(images, choice, level, tf.zeros([4])).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-2)


def test_each_image_gets_its_own_operation(tf):
    """Exact pixels for fixed parameters, one image per operation."""
    from trainer.augmentation import colour

    one = np.zeros((4, 4, 3), np.float32)
    one[:, :2] = 100.0
    one[0, 0] = (200.0, 60.0, 20.0)
    names = ["brightness", "contrast", "solarize", "translate_x", "shear_y"]
    images = np.stack([one] * (len(names) + 1))
    choice = [colour.OPERATIONS.index(n) for n in names] + [99]
    level = np.array([0, 0, 0.5, 0, 1, 0], np.float32)
    signed = np.array([0.2, -0.5, 0, 0.25, 0, 0], np.float32)
    found = colour.apply(
        tf.constant(images), tf.constant(choice), level, signed
    ).numpy()
    np.testing.assert_allclose(found[0], np.clip(one + 51, 0, 255))
    means = one.mean(axis=(0, 1), keepdims=True)
    np.testing.assert_allclose(found[1], means + (one - means) / 2, atol=1e-3)
    added = np.clip(one + 55, 0, 255)
    np.testing.assert_allclose(
        found[2], np.where(added < 127.5, added, 255 - added), atol=1e-3
    )
    # Output column c shows input column c + 1; beyond the edge, mirrored.
    np.testing.assert_allclose(found[3], one[:, [1, 2, 3, 3]], atol=1e-3)
    # Column c is moved by c - 1.5 rows: a half falls between two rows.
    np.testing.assert_allclose(
        found[4][2, 2], (one[2, 2] + one[3, 2]) / 2, atol=1e-3
    )
    np.testing.assert_array_equal(found[5], one)


def test_jitter_changes_each_of_its_three(tf):
    """By up to 20%: brightness, contrast, and of coloured images saturation."""
    from trainer.augmentation import colour

    ids = np.arange(500)
    grey = np.full((500, 2, 2, 3), 100.0, np.float32)
    grey[:, 0] = 130.0
    found = colour.jitter(tf.constant(grey), 1.0, 0, 0, ids).numpy()
    contrast = found.std(axis=(1, 2, 3)) / grey[0].std()
    assert 0.8 <= contrast.min() + 1e-3 and contrast.min() < 0.81
    assert 1.19 < contrast.max() <= 1.2 + 1e-3
    shift = found.mean(axis=(1, 2, 3)) - grey[0].mean()
    assert shift.min() < -45 and shift.max() > 45
    red = np.full((500, 2, 2, 3), 120.0, np.float32)
    red[..., 0] = 140.0
    found = colour.jitter(tf.constant(red), 1.0, 0, 0, ids).numpy()
    chroma = (found[:, 0, 0, 0] - found[:, 0, 0, 1]) / 20.0
    # Of an even image the contrast is nothing: what is left is saturation.
    assert chroma.min() < 0.82 and chroma.max() > 1.18


def test_randaugment_changes_three_times(tf):
    """One round leaves an eighth of these images as they are."""
    from trainer.augmentation import colour

    # None of them has its greatest contrast already.
    images = np.random.default_rng(0).integers(60, 180, (400, 8, 8, 3))
    images = images.astype(np.float32)
    given = tf.constant(images)
    found = colour.randaugment(given, 0.5, 0, 0, np.arange(400)).numpy()
    unchanged = (abs(found - images).max(axis=(1, 2, 3)) == 0).mean()
    assert unchanged < 1 / 8**2  # two rounds leave more: 0.035


def test_randaugment_uses_all_of_its_operations(tf):
    """Each with its own share: 10 of 11 rounds do something."""
    from trainer.augmentation import colour
    from trainer.augmentation import random_bits

    unit = random_bits.uniform(0, 0, tf.range(20_000, dtype=tf.int64), 4, 2)
    choice = (
        unit.numpy()[:, 0] * (len(colour.OPERATIONS) / colour.RATE)
    ).astype(int)
    shares = np.bincount(choice) / len(choice)
    assert len(shares) == len(colour.OPERATIONS) + 1
    np.testing.assert_allclose(shares, 1 / 11, atol=0.01)


def test_streams_are_independent(tf):
    from trainer.augmentation import random_bits

    ids = tf.range(20_000, dtype=tf.int64)
    drawn = [
        random_bits.uniform(0, 0, ids, 1, stream=s).numpy() for s in range(4)
    ]
    correlation = np.corrcoef(np.concatenate(drawn, axis=1).T) - np.eye(4)
    assert abs(correlation).max() < 0.03


def test_mixup_and_cutmix_exactly(tf):
    from trainer.augmentation import mix

    images = np.stack(
        [np.full((4, 4, 3), v, np.float32) for v in (0, 100, 200)]
    )
    targets = np.eye(3, dtype=np.float32)
    share = np.array([1.0, 0.75, 0.0], np.float32)
    # The partner of image 0 is the last, of image 1 the first.
    images, targets = images[[2, 0, 1, 2]], targets[[2, 0, 1, 2]]
    mixed, soft = mix.mixup(images, targets, share)
    np.testing.assert_allclose(mixed[:, 0, 0, 0], [0, 75, 100])
    np.testing.assert_allclose(soft, [[1, 0, 0], [0.25, 0.75, 0], [0, 1, 0]])
    centre = np.array([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]], np.float32)
    mixed, soft = mix.cutmix(images, targets, share, centre)
    np.testing.assert_allclose(mixed[0], images[1])
    # A quarter of the image is half of each side: the middle 2 x 2 pixels.
    wanted = images[2].copy()
    wanted[1:3, 1:3] = 0
    np.testing.assert_allclose(mixed[1], wanted)
    # The whole image, centred at the corner: a quarter of it is inside.
    wanted = images[3].copy()
    wanted[:2, :2] = 100
    np.testing.assert_allclose(mixed[2], wanted)
    np.testing.assert_allclose(
        soft, [[1, 0, 0], [0.25, 0.75, 0], [0, 0.25, 0.75]]
    )


@pytest.mark.parametrize(
    "options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}]
)
def test_mixed_labels_are_what_was_mixed(tf, options):
    """Images of one grey level show how much of each went in."""
    from trainer.augmentation import policies

    augment = tf.function(
        policies.create(policies.Policy("none", **options), 8)
    )
    labels = np.roll(np.arange(9, dtype=np.int32) % 8, 1)
    images = np.empty((9, 32, 32, 3), np.uint8)
    images[:] = (labels * 30)[:, None, None, None]
    ids = labels.astype(np.int64) * 1000
    kinds = set()
    for epoch in range(8):
        mixed, targets = augment(images, labels, ids, tf.constant(epoch))
        np.testing.assert_allclose(tf.reduce_sum(targets, 1), 1, atol=1e-5)
        found = mixed.numpy().mean(axis=(1, 2, 3))
        wanted = targets.numpy() @ (np.arange(8) * 30)
        np.testing.assert_allclose(found, wanted, atol=0.1)
        really = tf.reduce_max(targets, axis=1).numpy() < 0.95
        whole = (mixed.numpy() % 30 == 0).all(axis=(1, 2, 3))
        kinds.update(whole[really].tolist())
        again, _ = augment(images, labels, ids, tf.constant(epoch))
        np.testing.assert_array_equal(again, mixed)
        assert len(mixed) == 8
        part, _ = augment(images[3:6], labels[3:6], ids[3:6], epoch)
        np.testing.assert_array_equal(part, mixed[3:5])  # of another device
    assert kinds == {
        kind
        for name, kind in (("cutmix", True), ("mixup", False))
        if name in options
    }


def test_shares_follow_the_beta_distribution(tf):
    from scipy import stats

    from trainer.augmentation import mix

    ids = tf.range(5000, dtype=tf.int64)
    expected = stats.beta(0.4, 0.4).cdf
    chances = [
        stats.kstest(mix.shares(0.4, 0, epoch, ids).numpy(), expected).pvalue
        for epoch in range(9)
    ]
    assert np.median(chances) > 0.05


def test_identity_at_inference(affine):
    layer = affine.RandomAffine(affine.AffineRanges(rotation_range=40.0), 0)
    found = layer(IMAGE, ids=np.arange(1), epoch=0, training=False)
    np.testing.assert_array_equal(found, IMAGE)
