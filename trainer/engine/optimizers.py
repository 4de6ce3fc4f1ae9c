"""Optimizers by name, learning rates by step, and averaged weights."""

import math
from collections.abc import Mapping
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.config import Phase
from trainer.groups import Optimisation


def learning_rates(
    schedule: str,
    peak: float,
    first: int,
    last: int,
    *,
    total: int,
    warmup: int = 0,
) -> np.ndarray:
    """Returns the learning rates of some steps of a phase.

    They depend on the step alone, not on the optimizer's own counter, which
    does not count a step that is left out because float16 overflowed.

    Args:
        schedule: "constant"; "cosine" falls to 0 along a half cosine; "step"
            falls to a tenth at half of the steps and again at three quarters.
        peak: Rate after the warm-up.
        first: Index of the first step, counted from 0 within the phase.
        last: Index after that of the last step.
        total: Number of steps of the phase.
        warmup: Steps in which the rate rises from 0 to `peak`.

    Returns:
        float32 `[last - first]`.
    """
    steps = np.arange(first, last, dtype=np.float64)
    done = np.clip((steps - warmup) / max(1, total - warmup), 0.0, 1.0)
    factors = {
        "constant": lambda: np.ones_like(done),
        "cosine": lambda: 0.5 + 0.5 * np.cos(math.pi * done),
        "step": lambda: np.where(
            done < 0.5, 1.0, np.where(done < 0.75, 0.1, 0.01)
        ),
    }[schedule]()
    rising = (steps + 1) / max(1, warmup)
    factors = np.where(steps < warmup, rising, factors)
    return (peak * factors).astype(np.float32)


def for_phase(
    settings: Optimisation, phase: Phase, model: keras.Model
) -> keras.optimizers.Optimizer:
    """Makes the optimizer of a phase; call it under the strategy's scope.

    Args:
        settings: Momentum, weight decay and layer decay.
        phase: Its name is part of the names of the optimizer's variables.
        model: The whole classifier, with the phase's layers unfrozen.
    """
    return create(
        phase.optimizer,
        phase.name,
        model.trainable_variables,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        factors=layer_factors(model, settings.layer_decay),
    )


def create(
    name: str,
    phase: str,
    variables: Sequence[keras.Variable],
    *,
    momentum: float,
    weight_decay: float,
    factors: Mapping[str, float],
) -> keras.optimizers.Optimizer:
    """Makes an optimizer and its variables; call it under the strategy's scope.

    Args:
        name: "adam", "adamw", "rmsprop" or "sgd".
        phase: Name of the phase; part of the names of its variables. Keras
            would number the optimizers of a process, and a resumed run makes
            fewer of them.
        variables: What it is to train.
        momentum: In [0, 1); used by "sgd".
        weight_decay: At least 0; used by "adamw".
        factors: Share of the learning rate, and so of the weight decay, that a
            variable gets, by its path; 1 for a variable that is not in it.
    """
    base, options = {
        "adam": (keras.optimizers.Adam, {}),
        "adamw": (keras.optimizers.Adam, {}),
        "rmsprop": (keras.optimizers.RMSprop, {}),
        "sgd": (keras.optimizers.SGD, {"momentum": momentum}),
    }[name]
    decay = weight_decay if name == "adamw" else 0.0
    share = [factors.get(variable.path, 1.0) for variable in variables]

    class Optimizer(base):
        def update_step(self, gradient, variable, learning_rate):
            factor = share[self._get_variable_index(variable)]
            rate = learning_rate * factor
            if decay:
                # Keras's AdamW decays all variables at the full rate.
                self.assign_sub(variable, decay * rate * variable)
            super().update_step(gradient, variable, rate)

    optimizer = Optimizer(0.0, name=f"{phase}_optimizer", **options)
    if keras.config.dtype_policy().name == "mixed_float16":
        # Small gradients would be rounded to 0: they are computed of a loss
        # scaled up, and steps that overflow are left out.
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, name=f"{phase}_loss_scale"
        )
    optimizer.build(variables)
    return optimizer


def layer_factors(model: keras.Model, decay: float) -> dict[str, float]:
    """Returns the share of the learning rate that each base layer gets.

    The deepest layer with weights below the head gets `decay`, the one before
    it `decay` squared, and so on; the head gets 1 (Howard and Ruder,
    "Universal language model fine-tuning", 2018, there by 1/2.6).

    Args:
        model: A classifier whose head follows the layer "pool".
        decay: In (0, 1]; 1 is no decay.
    """
    layers = list(model.layers)
    head = next(i for i, layer in enumerate(layers) if layer.name == "pool")
    result, factor = {}, 1.0
    for layer in reversed(layers[:head]):
        if layer.trainable_variables:
            factor *= decay
            result.update({v.path: factor for v in layer.trainable_variables})
    return result


class Averages:
    """Exponential moving averages of variables.

    Make them under the strategy's scope.

    Args:
        variables: What to average.
        decay: Share that an average keeps per step, in (0, 1). In the first
            steps it is less, min(decay, (1 + t) / (10 + t)), as in
            TensorFlow's `ExponentialMovingAverage`, so that the initial
            values soon stop mattering.

    Attributes:
        averages: One keras.Variable per variable, by name.
    """

    def __init__(self, variables: Sequence[keras.Variable], decay: float):
        self._variables = list(variables)
        self._decay = decay
        self.averages = {
            f"average/{variable.path}": keras.Variable(
                variable.numpy(), trainable=False, dtype=variable.dtype
            )
            for variable in variables
        }

    def update(self, strategy: tf.distribute.Strategy, step: tf.Tensor) -> None:
        """Updates the averages; call it in cross-replica context.

        Args:
            strategy: The strategy that all variables were made under.
            step: Integer scalar, index of the step within the phase.
        """
        step = tf.cast(step, tf.float32)
        decay = tf.minimum(self._decay, (1.0 + step) / (10.0 + step))

        def move(average: tf.Variable, value: tf.Tensor, decay: tf.Tensor):
            average.assign_sub((1.0 - decay) * (average - value))

        for average, variable in zip(
            self.averages.values(), self._variables, strict=True
        ):
            strategy.extended.update(
                average.value, move, args=(variable.value, decay)
            )

    def swap(self) -> None:
        """Exchanges the variables and their averages."""
        for average, variable in zip(
            self.averages.values(), self._variables, strict=True
        ):
            kept = variable.numpy()
            variable.assign(average.numpy())
            average.assign(kept)

    def restart(self) -> None:
        """Sets the averages to what the variables are now."""
        for average, variable in zip(
            self.averages.values(), self._variables, strict=True
        ):
            average.assign(variable.numpy())
