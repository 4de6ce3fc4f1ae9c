"""Random numbers that depend on (seed, epoch, image id) and nothing else.

TensorFlow's stateless generators take one seed per call, and a call per image
is slow; this hashes all ids of a batch at once, on any device. The mixing
function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014).
"""

import tensorflow as tf

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


def uniform(seed: int, epoch, ids, number: int, stream: int = 0) -> tf.Tensor:
    """Draws independent uniform numbers for every image.

    Args:
        seed: The run's seed.
        epoch: The epoch, counted from 0; an integer or an integer tensor.
        ids: int64 `[B]`, image ids.
        number: Count of numbers per image, N.
        stream: Number of the caller; different streams are independent.

    Returns:
        float32 `[B, N]` in [0, 1), in steps of 2**-24.
    """
    epoch = tf.cast(epoch, tf.int64)
    run = _mix(tf.constant(_signed(seed), tf.int64)) + epoch
    run = _mix(run + _signed(stream << 32))
    per_image = _mix(tf.cast(ids, tf.int64) ^ run)
    offsets = tf.constant(
        [_signed(_GOLDEN_GAMMA * (i + 1)) for i in range(number)], tf.int64
    )
    bits = _mix(per_image[:, tf.newaxis] + offsets[tf.newaxis])
    return tf.cast(_shift_right(bits, 40), tf.float32) * 2.0**-24


def _mix(value: tf.Tensor) -> tf.Tensor:
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        value ^= _shift_right(value, shift)
        value *= _signed(multiplier)
    return value ^ _shift_right(value, _SHIFTS[-1])


def _shift_right(value: tf.Tensor, bits: int) -> tf.Tensor:
    """Shifts in zeros; int64, because GPUs lack kernels for uint64."""
    mask = (1 << (64 - bits)) - 1
    return tf.bitwise.right_shift(value, tf.constant(bits, tf.int64)) & mask


def _signed(value: int) -> int:
    """Returns the int64 with the low 64 bits of `value`."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
