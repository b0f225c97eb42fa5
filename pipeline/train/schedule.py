"""The learning rate: a pure function of the step, so that a resumed run follows the same curve."""

from typing import Any

from pipeline.backend import keras

ops = keras.ops


class WarmUpThenDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Rise linearly from 0 to the peak, then fall linearly to 0 or stay there.

    Args:
        peak: the highest learning rate.
        steps: the number of steps of the whole run.
        warmup: the share of the steps in which it rises.
        decay: "linear" to fall to 0 after the last step, "none" to stay at the peak.
    """

    def __init__(self, peak: float, steps: int, warmup: float, decay: str) -> None:
        self.peak, self.steps, self.warmup, self.decay = peak, steps, warmup, decay

    def __call__(self, step: Any) -> Any:
        """Compute the learning rate, float32 (), of a step, counted from 0."""
        # 0 would be before the first step and after the last: no step is taken at a rate of 0.
        step = ops.cast(step, "float32") + 1
        rising_steps = max(1.0, self.warmup * self.steps)
        rate = ops.minimum(step / rising_steps, 1.0)
        if self.decay == "linear":
            falling_steps = max(1.0, self.steps + 1 - rising_steps)
            rate = ops.minimum(rate, (self.steps + 1 - step) / falling_steps)
        return self.peak * ops.maximum(rate, 0.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, in the form that Keras expects."""
        return dict(vars(self))
