"""The classifier: preprocessing, base and head in one flat model."""

import re
from collections.abc import Iterable

import keras

from trainer.groups import Model
from trainer.models.bases import BASES
from trainer.models.dropout import Dropout

# Channel means of ImageNet in BGR order (keras, `applications/imagenet_utils`,
# mode "caffe"), and means and standard deviations in RGB order (mode "torch").
CAFFE_MEANS_BGR = (103.939, 116.779, 123.68)
TORCH_MEANS = (0.485, 0.456, 0.406)
TORCH_DEVIATIONS = (0.229, 0.224, 0.225)


def build_classifier(
    num_classes: int, image_size: int, settings: Model
) -> keras.Model:
    """Builds the network with random weights, under the global dtype policy.

    Args:
        num_classes: K, at least 2.
        image_size: S, in pixels.
        settings: Base, preprocessing, head and dropout. A preprocessing of
            "auto" is what the ImageNet weights of the base expect.

    Returns:
        A model from RGB images `[B, S, S, 3]` in [0, 255] to float32 logits
        `[B, K]`. It is flat: the base's layers stand in it by their own
        names, the head's are `pool`, `hidden`, `dropout` and `logits`.
    """
    image = keras.Input((image_size, image_size, 3), name="image")
    preprocessing = settings.preprocessing
    if preprocessing == "auto":
        preprocessing = BASES[settings.base].preprocessing
    x = build_base(settings.base, _preprocess(image, preprocessing)).output
    if settings.head == "gap":
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    else:
        x = keras.layers.Flatten(name="pool")(x)
    if settings.head_units:
        x = keras.layers.Dense(settings.head_units, "relu", name="hidden")(x)
    if settings.dropout:
        x = Dropout(settings.dropout, name="dropout")(x)
    # From zero the first gradient points straight at the classes, and few
    # steps from zero are a regulariser: measured 0.5 points better than
    # random values after 3 epochs.
    logits = keras.layers.Dense(
        num_classes, kernel_initializer="zeros", dtype="float32", name="logits"
    )(x)
    return keras.Model(image, logits, name="classifier")


def build_base(
    base: str, image: keras.KerasTensor, weights: str | None = None
) -> keras.Model:
    """Builds a base.

    Args:
        base: Name of one of `BASES`.
        image: `[B, S, S, 3]`, preprocessed.
        weights: None starts from random values; "imagenet" from Keras's
            download.

    Returns:
        A model from `image` to the features `[B, h, w, C]`.
    """
    if base == "scratch":
        return _small_network(image)
    application = getattr(keras.applications, BASES[base].application)
    built = application(
        include_top=False,
        weights=weights,
        input_tensor=image,
        input_shape=image.shape[1:],
    )
    # Keras counts the layers that have no name of their own over the whole
    # process: numbered within the base, they are found again by name.
    counts: dict[str, int] = {}
    for layer in built.layers:
        kind = re.sub(r"_\d+$", "", layer.name)
        if kind.replace("_", "") == type(layer).__name__.lower():
            count = counts.get(kind, 0)
            counts[kind] = count + 1
            layer.name = f"{kind}_{count}" if count else kind
        if isinstance(layer, keras.layers.BatchNormalization):
            # Statistics of the whole batch, whatever the number of replicas.
            layer.synchronized = True
        if isinstance(layer, keras.layers.Dropout):
            # EfficientNet's stochastic depth draws by device, not by image.
            layer.rate = 0.0
    return built


def set_trainable(model: keras.Model, train_from: str | None) -> None:
    """Chooses which layers learn: the head, and the base from a layer on.

    Args:
        model: What `build_classifier` returned.
        train_from: Name of the base's first layer that learns; None freezes
            the whole base.
    """
    learning = {id(layer) for layer in learning_layers(model, train_from)}
    for layer in model.layers:
        layer.trainable = id(layer) in learning


def learning_layers(
    model: keras.Model, train_from: str | None
) -> list[keras.layers.Layer]:
    """Returns the layers that `set_trainable` would let learn, in order.

    Batch normalisation learns only where the whole base does: the statistics
    of small batches would undo what the layers before it were trained on
    (keras, guide "Transfer learning and fine-tuning").

    Args:
        model: What `build_classifier` returned.
        train_from: Name of the base's first layer that learns; None freezes
            the whole base.
    """
    result = []
    in_base, reached, whole_base = True, False, False
    frozen = 0  # layers with weights before the first that learns
    for layer in model.layers:
        in_base = in_base and layer.name != "pool"
        if layer.name == train_from:
            reached, whole_base = True, frozen == 0
        frozen += bool(layer.weights)
        keeps_statistics = isinstance(layer, keras.layers.BatchNormalization)
        base_learns = reached and (whole_base or not keeps_statistics)
        if base_learns or not in_base:
            result.append(layer)
    return result


def learns_statistics(learning: Iterable[keras.layers.Layer]) -> bool:
    """Returns whether images of a batch depend on each other in training.

    Args:
        learning: The layers that learn.
    """
    return any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in learning
    )


def base_of(model: keras.Model) -> keras.Model:
    """Returns the part from images to features; its layers are shared.

    Features are what the base and its pooling give: `[B, C]` under the head
    "gap", maps `[B, h, w, C]` under "flatten".

    Args:
        model: What `build_classifier` returned.
    """
    pool = model.get_layer("pool")
    features = pool.output if _pools(pool) else pool.input
    return keras.Model(model.input, features, name="base")


def head_of(model: keras.Model) -> keras.Model:
    """Returns the part from features to logits; its layers are shared.

    It calls the model's own last layers on features. So training it trains
    `model`, names and paths of weights are the same, and checkpoints,
    averages and export need not know of it.

    Args:
        model: What `build_classifier` returned.
    """
    pool = model.get_layer("pool")
    first = model.layers.index(pool) + (1 if _pools(pool) else 0)
    x = features = keras.Input(base_of(model).output.shape[1:], name="features")
    for layer in model.layers[first:]:
        x = layer(x)
    return keras.Model(features, x, name="head")


def inference_model(model: keras.Model, flip_average: bool) -> keras.Model:
    """Returns what is validated, evaluated and exported.

    Args:
        model: From images `[B, S, S, 3]` to float32 logits `[B, K]`.
        flip_average: Whether to average the logits of an image and its
            mirror image.
    """
    return flip_averaged(model) if flip_average else model


def inference_head(head: keras.Model, flip_average: bool) -> keras.Model:
    """Returns what `inference_model` is, from features to logits.

    Args:
        head: What `head_of` returned.
        flip_average: Whether the input is `[B, 2, ...]`, the features of an
            image and of its mirror image, whose logits are averaged.
    """
    if not flip_average:
        return head
    both = keras.Input((2, *head.input.shape[1:]), name="both")
    logits = (head(both[:, 0]) + head(both[:, 1])) / 2.0
    return keras.Model(both, logits, name="averaged_head")


def flip_averaged(model: keras.Model) -> keras.Model:
    """Returns a model whose logits are the mean over an image and its mirror.

    Args:
        model: From images `[B, S, S, 3]` to float32 logits `[B, K]`.
    """
    image = keras.Input(model.input.shape[1:], name="image")
    mirrored = keras.ops.flip(image, axis=2)
    logits = (model(image) + model(mirrored)) / 2.0
    return keras.Model(image, logits, name="flip_averaged")


def _pools(pool: keras.layers.Layer) -> bool:
    return isinstance(pool, keras.layers.GlobalAveragePooling2D)


def _preprocess(image: keras.KerasTensor, mode: str) -> keras.KerasTensor:
    if mode == "none":
        return image
    scale, offset = 1 / 255, 0.0
    if mode == "caffe":
        image = image[..., ::-1]
        scale, offset = 1.0, [-mean for mean in CAFFE_MEANS_BGR]
    elif mode == "tf":
        scale, offset = 1 / 127.5, -1.0
    elif mode == "torch":
        pairs = list(zip(TORCH_MEANS, TORCH_DEVIATIONS, strict=True))
        scale = [1 / (255 * deviation) for _, deviation in pairs]
        offset = [-mean / deviation for mean, deviation in pairs]
    # In float32: 8 bits of mantissa would round the difference.
    return keras.layers.Rescaling(
        scale, offset, dtype="float32", name="preprocessing"
    )(image)


def _small_network(image: keras.KerasTensor) -> keras.Model:
    """The four convolutions of the published baseline (Chollet 2017, 5.2)."""
    x = image
    for number, filters in enumerate((32, 64, 128, 128), start=1):
        x = keras.layers.Conv2D(
            filters, 3, activation="relu", name=f"conv{number}"
        )(x)
        x = keras.layers.MaxPooling2D(name=f"pool{number}")(x)
    inputs = keras.utils.get_source_inputs(image)
    return keras.Model(inputs, x, name="scratch")
