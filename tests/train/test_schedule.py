"""schedule.py: the learning rate rises to its peak and falls to 0, and is never 0 before."""

import itertools
from typing import Any

import numpy as np
import pytest

PEAK = 0.25


def made(steps: int, warmup: float, decay: str) -> Any:
    from pipeline.train.schedule import WarmUpThenDecay

    return WarmUpThenDecay(PEAK, steps, warmup, decay)


def rates(steps: int, warmup: float, decay: str) -> list[float]:
    """The rate at each step that is taken, and at the one after the last."""
    schedule = made(steps, warmup, decay)
    return [float(schedule(step)) for step in range(steps + 1)]


def test_rises_to_the_peak_and_falls_to_zero_or_stays() -> None:
    rising = PEAK * np.arange(1, 21) / 20
    values = rates(100, 0.2, "linear")
    np.testing.assert_allclose(values[:20], rising, rtol=1e-5)
    np.testing.assert_allclose(values[19:], PEAK * np.arange(81, -1, -1) / 81, atol=1e-6)
    assert values[100] == 0
    np.testing.assert_allclose(rates(100, 0.2, "none")[:20], rising, rtol=1e-5)
    assert set(rates(100, 0.2, "none")[20:]) == {PEAK}


@pytest.mark.parametrize("decay", ["linear", "none"])
def test_no_step_is_taken_at_a_rate_of_zero_or_above_the_peak(decay: str) -> None:
    for steps, warmup in itertools.product([1, 2, 10, 101], [0.0, 0.1, 1.0]):
        values = rates(steps, warmup, decay)
        assert min(values[:-1]) > 0
        assert values[-1] >= 0
        assert PEAK >= max(values) == pytest.approx(PEAK, rel=0.1 if steps > 3 else 0.5)


def test_is_a_function_of_the_step_alone_also_in_a_graph() -> None:
    from pipeline.backend import tf

    schedule = made(30, 0.3, "linear")
    rebuilt = type(schedule).from_config(schedule.get_config())
    in_graph: Any = tf.function(rebuilt)
    backwards = [float(in_graph(tf.constant(step, "int64"))) for step in reversed(range(31))]
    np.testing.assert_allclose(backwards[::-1], rates(30, 0.3, "linear"), rtol=1e-6)
