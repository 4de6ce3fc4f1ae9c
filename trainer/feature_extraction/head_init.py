"""What the head starts from: a classical classifier, fitted on features."""

import keras
import numpy as np

from data_prep.dataset import splits
from data_prep.runtime import atomic
from data_prep.runtime.errors import DataError
from trainer.config import Config
from trainer.distribution.worker_group import WorkerGroup
from trainer.feature_extraction import classical
from trainer.feature_extraction.extractor import Extractor
from trainer.feature_extraction.store import FeatureSet
from trainer.pipeline import cache
from trainer.pipeline.data_loader import DataLoader


def initialise(
    config: Config,
    model: keras.Model,
    loader: DataLoader,
    extractor: Extractor,
    workers: WorkerGroup,
) -> dict:
    """Sets the head to a classical classifier, fitted on features.

    It is fitted on the training pictures as they are, and on `feature_views`
    augmented views of them besides.

    Args:
        config: Of the run; `head_init` names the classifier.
        model: What `build_classifier` returned, without a hidden layer.
        loader: Batches of images.
        extractor: Of the model.
        workers: Of the run; what the first one fits is what all get.

    Returns:
        The row of what it reached, as in `metrics.jsonl`, epoch 0.

    Raises:
        DataError: If a class has no training image, or the features do not
            fit in memory.
    """
    train, pixels = loader.readers[splits.TRAIN], loader.images[splits.TRAIN]
    absent = set(range(model.output.shape[1])) - set(train.labels.tolist())
    if absent:
        names = [train.manifest.classes[k] for k in sorted(absent)]
        raise DataError(
            f"--head_init={config.features.head_init} cannot learn {', '.join(names)}: "
            "the train split has no image of it. Make the data set again "
            "with other --splits."
        )
    sets = [
        extractor.plain(train, pixels),
        *(
            extractor.augmented(train, pixels, view)
            for view in range(config.features.feature_views)
        ),
    ]
    _check_memory(sets)
    validation = loader.readers[splits.VALIDATION]
    views = [
        _rows(features)
        for features in extractor.served(
            validation, loader.images[splits.VALIDATION]
        )
    ]
    head = classical.fit(
        config.features.head_init,
        np.concatenate([_rows(features) for features in sets]),
        np.tile(train.labels, len(sets)),
        np.stack(views, axis=1),
        validation.labels,
        config.run.seed,
        config.optimisation.class_weights,
    )
    # All fit, at once; another library's last bits must not part them.
    mine = float(workers.is_first)
    fitted = [workers.sum(mine * part) for part in (head.kernel, head.bias)]
    model.get_layer("logits").set_weights(fitted)
    if workers.is_first:
        atomic.write_json(
            extractor.model_dir / "head_init.json",
            {
                "classifier": config.features.head_init,
                "chosen": head.chosen,
                "candidates": head.candidates,
            },
        )
    return {"phase": "head_init", "epoch": 0, **head.chosen}


def _rows(features: FeatureSet) -> np.ndarray:
    everything = features.take(np.arange(features.count))
    return everything.reshape(features.count, -1).astype(np.float32)


def _check_memory(sets: list[FeatureSet]) -> None:
    count = sum(features.count for features in sets)
    # In float64, centred, scaled and rotated.
    size = 8 * 4 * count * int(np.prod(sets[0].shape))
    left = 2 * cache.memory_for_cache(-1)
    if size > left:
        raise DataError(
            f"--head_init fits {count} images of {sets[0].shape} values in "
            f"memory, which takes {size >> 20} MiB; {left >> 20} are left. "
            "Use --head=gap, fewer --feature_views, or --feature_cache with "
            "--frozen_epochs, which streams them."
        )
