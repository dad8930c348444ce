"""The learning rate by step."""

from typing import Any

from mnistflow.core.params import ModelSettings
from mnistflow.training.backend import keras


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate that climbs in a straight line to its peak and falls in another.

    After Smith and Topin (2019), "Super-Convergence", arXiv:1708.07120, without their momentum cycle.
    """

    def __init__(self, peak: float, steps: int, warmup: float, final: float) -> None:
        self._peak, self._steps, self._warmup, self._final = peak, steps, warmup, final

    def __call__(self, step: Any) -> Any:
        """The learning rate at `step`, counted from 0."""
        done = (keras.ops.cast(step, "float32") + 1) / self._steps
        climb = done / max(self._warmup, 1 / self._steps)
        fall = 1 - (1 - self._final) * (done - self._warmup) / max(1 - self._warmup, 1 / self._steps)
        return self._peak * keras.ops.minimum(climb, fall)

    def get_config(self) -> dict[str, float]:
        """The arguments that make it; Keras asks for them to describe an optimizer."""
        return {"peak": self._peak, "steps": self._steps, "warmup": self._warmup, "final": self._final}


def learning_rate(settings: ModelSettings, steps_per_epoch: int) -> "float | OneCycle":
    """The learning rate as Keras' optimizers take it: a number, or a function of the step over all epochs."""
    if settings.schedule == "constant":
        return settings.learning_rate
    assert settings.warmup is not None  # core/params.py checks that
    assert settings.final is not None
    steps = settings.epochs * steps_per_epoch
    return OneCycle(settings.learning_rate, steps, settings.warmup, settings.final)
