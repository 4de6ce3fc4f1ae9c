"""Keras callbacks in a loop that is not Keras's, their state kept."""

from collections.abc import Sequence

import keras


class Callbacks:
    """Calls Keras callbacks and carries their state over a resume.

    Of the batches they hear the last one of each call of TensorFlow.

    Args:
        callbacks: Objects of `keras.callbacks.Callback`.
        model: Passed to them.
        epochs: Of all phases.
        steps: Of an epoch.
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
        """Starts the run."""
        self._list.on_train_begin()

    def restore(self, state: list[dict]) -> None:
        """Sets the callbacks to what `state` returned in an earlier run."""
        for callback, values in zip(self._callbacks, state, strict=False):
            vars(callback).update(values)

    def begin_phase(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Shows the phase's optimizer, whose rate a callback may set."""
        self._model.optimizer = optimizer
        self._model.stop_training = False

    def begin_epoch(self, epoch: int) -> None:
        """Before an epoch, counted from 0 over all phases."""
        self._list.on_epoch_begin(epoch)

    def end_step(self, step: int, logs: dict) -> None:
        """After a step, counted from 0 within the epoch."""
        self._list.on_train_batch_end(step, logs)

    def end_epoch(self, epoch: int, logs: dict) -> bool:
        """After an epoch; returns whether one asked to stop the phase."""
        numbers = {k: v for k, v in logs.items() if k not in ("phase", "epoch")}
        self._list.on_epoch_end(epoch, numbers)
        return bool(self._model.stop_training)

    def end(self) -> None:
        """After the last phase."""
        self._list.on_train_end()

    def state(self) -> list[dict]:
        """Returns the numbers, texts and lists of each callback, for JSON.

        A best value, a patience used up; arrays and files are their own.
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
