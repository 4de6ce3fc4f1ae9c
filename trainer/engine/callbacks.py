"""Keras callbacks, called by our own loop, and their state in checkpoints."""

from collections.abc import Sequence

import keras


class Callbacks:
    """Calls Keras callbacks and keeps their state when a run is resumed.

    `on_train_batch_end` is called after each call of TensorFlow, which is for
    the last of its steps only.

    Args:
        callbacks: The user's callbacks.
        model: The model they are given.
        epochs: Number of epochs of all phases.
        steps: Number of steps of an epoch.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        *,
        epochs: int,
        steps: int,
    ):
        self._callbacks = list(callbacks)
        self._model = model
        model.stop_training = False
        self._list = keras.callbacks.CallbackList(
            self._callbacks, model=model, epochs=epochs, steps=steps, verbose=0
        )

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def begin(self) -> None:
        """Calls them at the start of the run."""
        self._list.on_train_begin()

    def restore(self, state: list[dict]) -> None:
        """Sets the callbacks to what `state` returned in an earlier run."""
        for callback, values in zip(self._callbacks, state, strict=False):
            vars(callback).update(values)

    def begin_phase(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Gives them the phase's optimizer, whose rate a callback may set."""
        self._model.optimizer = optimizer
        self._model.stop_training = False

    def begin_epoch(self, epoch: int) -> None:
        """Calls them before an epoch, counted from 0 over all phases."""
        self._list.on_epoch_begin(epoch)

    def end_step(self, step: int, logs: dict) -> None:
        """Calls them after a step, counted from 0 within the epoch."""
        self._list.on_train_batch_end(step, logs)

    def end_epoch(self, epoch: int, logs: dict) -> bool:
        """Calls them after an epoch; returns whether one ends the phase."""
        numbers = {k: v for k, v in logs.items() if k not in ("phase", "epoch")}
        self._list.on_epoch_end(epoch, numbers)
        return bool(self._model.stop_training)

    def end(self) -> None:
        """Calls them after the last phase."""
        self._list.on_train_end()

    def state(self) -> list[dict]:
        """Returns the attributes of each callback that JSON can hold.

        These are numbers, strings and lists, such as the best value so far
        and the epochs waited. Arrays and files are the callback's own concern.
        """
        return [
            {
                name: value
                for name, value in vars(callback).items()
                if _is_plain(value)
            }
            for callback in self._callbacks
        ]


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
