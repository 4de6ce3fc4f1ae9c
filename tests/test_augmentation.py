"""Augmentation: exact pixels for fixed parameters, pure random numbers."""

import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture
def affine(tf):
    from trainer.augmentation import affine

    return affine


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
        ({"theta": 90.0}, np.rot90(IMAGE, axes=(2, 1))),
        # Output row r shows input row r + 1; the last row repeats.
        ({"tx": 0.25}, IMAGE[:, [1, 2, 3, 3]]),
        ({"ty": -0.25}, IMAGE[:, :, [0, 0, 1, 2]]),
    ],
)
def test_exact_pixels(affine, values, expected):
    found = affine.apply(IMAGE, fixed(affine, **values), "nearest").numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def image_data_generator(image, p, fill_mode):
    """What Keras's ImageDataGenerator does to one image, by SciPy.

    Written from the composition that keras-preprocessing documents: rotation,
    shift, shear, zoom, about the centre, order 1, then the flips.
    """
    height, width = image.shape[:2]
    theta, shear = np.deg2rad(p["theta"]), np.deg2rad(p["shear"])
    matrix = np.array(
        [
            [np.cos(theta), -np.sin(theta), 0],
            [np.sin(theta), np.cos(theta), 0],
            [0, 0, 1],
        ]
    )
    matrix = matrix @ [
        [1, 0, p["tx"] * height],
        [0, 1, p["ty"] * width],
        [0, 0, 1],
    ]
    matrix = matrix @ [[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]]
    matrix = matrix @ np.diag([p["zx"], p["zy"], 1])
    centre = np.array(
        [[1, 0, height / 2 - 0.5], [0, 1, width / 2 - 0.5], [0, 0, 1]]
    )
    matrix = centre @ matrix @ np.linalg.inv(centre)
    result = np.stack(
        [
            ndimage.affine_transform(
                image[..., channel],
                matrix[:2, :2],
                matrix[:2, 2],
                order=1,
                mode=fill_mode,
            )
            for channel in range(3)
        ],
        axis=-1,
    )
    if p["flip_horizontal"]:
        result = result[:, ::-1]
    if p["flip_vertical"]:
        result = result[::-1]
    return result


@pytest.mark.parametrize("shape", [(48, 48), (40, 64)])
def test_agrees_with_image_data_generator(affine, shape):
    generator = np.random.default_rng(0)
    rough = generator.uniform(0, 255, (*shape, 3))
    image = ndimage.gaussian_filter(rough, (1, 1, 0)).astype(np.float32)
    differences = []
    for _ in range(20):
        values = {
            "theta": generator.uniform(-40, 40),
            "tx": generator.uniform(-0.2, 0.2),
            "ty": generator.uniform(-0.2, 0.2),
            "shear": generator.uniform(-20, 20),
            "zx": generator.uniform(0.8, 1.2),
            "zy": generator.uniform(0.8, 1.2),
            "flip_horizontal": float(generator.integers(2)),
            "flip_vertical": float(generator.integers(2)),
        }
        found = affine.apply(
            image[np.newaxis], fixed(affine, **values), "nearest"
        )[0].numpy()
        wanted = image_data_generator(image, values, "nearest")
        differences.append(abs(found - wanted).mean())
    assert max(differences) < 1.0  # of 255


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


def test_an_image_gets_the_same_wherever_it_stands(tf):
    from trainer.augmentation import policies

    augment = policies.create("classic", seed=5)
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
    assert abs(other_epoch - whole).mean() > 5
    assert abs(other_image - whole[:1]).mean() > 5


def test_replicas_draw_for_their_own_images(tf):
    """Under two replicas every image gets what it gets on one."""
    from trainer.augmentation import policies

    augment = policies.create("classic", seed=5)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
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


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", ["none", "light", "classic"])
def test_type_shape_and_range(tf, name, policy):
    import keras

    from trainer.augmentation import policies

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        augment = policies.create(name, seed=0)
        images = np.random.default_rng(0).integers(
            0, 256, (3, 33, 47, 3), np.uint8
        )
        found = augment(images, np.arange(3), 0)
    finally:
        keras.config.set_dtype_policy(before)
    assert found.shape == images.shape
    assert found.dtype == tf.float32
    assert found.numpy().min() >= 0 and found.numpy().max() <= 255
    changed = abs(found.numpy() - images).mean() > 1
    assert changed == (name != "none")


def test_identity_at_inference(affine):
    layer = affine.RandomAffine(affine.AffineRanges(rotation_range=40.0), 0)
    found = layer(IMAGE, ids=np.arange(1), epoch=0, training=False)
    np.testing.assert_array_equal(found, IMAGE)
