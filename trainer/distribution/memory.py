"""What follows where a device's memory runs out: fewer images at a time."""

from data_prep.runtime.errors import TrainingError


def more_pieces(share: int, pieces: int, error: Exception) -> int:
    """Returns in how many pieces a replica's share of a batch is to be tried.

    Args:
        share: Images of a batch that one replica computes.
        pieces: In how many they did not fit; divides `share`.
        error: What TensorFlow said.

    Returns:
        At least twice as many, a divisor of `share`.

    Raises:
        TrainingError: If there was one image at a time already.
    """
    for more in range(2 * pieces, share + 1):
        if share % more == 0:
            return more
    if pieces < share:
        return share
    said = str(error).partition("\n")[0]
    raise TrainingError(
        f"the memory of a device does not hold one image: {said}. Pass a "
        "smaller --image_size, or a smaller --base, and another --model_dir."
    ) from None
