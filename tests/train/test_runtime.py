"""runtime.py: the precision follows from the hardware; one seed for all random numbers."""

import random
from typing import Any

import numpy as np
import pytest

from pipeline.train import runtime
from pipeline.train.runtime import choose_precision

NO_FLAGS: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("capability", "policy"),
    [
        ((6, 1), "float32"),
        ((7, 0), "mixed_float16"),
        ((7, 5), "mixed_float16"),
        ((8, 0), "mixed_bfloat16"),
        ((8, 9), "mixed_bfloat16"),
        ((9, 0), "mixed_bfloat16"),
        ((10, 0), "mixed_bfloat16"),
        (None, "float32"),
    ],
)
def test_the_precision_of_a_gpu(capability: tuple[int, int] | None, policy: str) -> None:
    # The CPU's features do not matter.
    for flags in (NO_FLAGS, frozenset({"avx512_bf16"})):
        chosen, reason = choose_precision("auto", True, capability, flags)
        assert chosen == policy
        shown = "unknown" if capability is None else f"{capability[0]}.{capability[1]}"
        assert shown in reason


@pytest.mark.parametrize(
    ("flags", "policy", "reason"),
    [
        ({"avx2", "avx512_bf16"}, "mixed_bfloat16", "the CPU has avx512_bf16"),
        ({"amx_bf16"}, "mixed_bfloat16", "the CPU has amx_bf16"),
        ({"avx2", "avx512f"}, "float32", "the CPU has no bfloat16 arithmetic"),
        (set(), "float32", "the CPU has no bfloat16 arithmetic"),
    ],
)
def test_the_precision_of_a_cpu(flags: set[str], policy: str, reason: str) -> None:
    assert choose_precision("auto", False, None, frozenset(flags)) == (policy, reason)


@pytest.mark.parametrize("wanted", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("gpu", [False, True])
def test_what_the_preset_asks_for_is_used(wanted: str, gpu: bool) -> None:
    chosen, reason = choose_precision(wanted, gpu, (8, 0), frozenset({"avx512_bf16"}))
    assert chosen == wanted
    assert "train.precision" in reason


def draws(seed: int) -> list[Any]:
    """One number from each random number generator."""
    runtime.prepare(seed, "float32")
    from pipeline.backend import keras

    keras_draw = float(np.asarray(keras.random.uniform(())))
    return [random.random(), float(np.random.random()), keras_draw]


def test_a_seed_seeds_all_random_number_generators(fresh_keras: Any) -> None:
    first, other, again = draws(1), draws(2), draws(1)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_prepare_configures_keras_and_reports_it(fresh_keras: Any, policy: str) -> None:
    machine = runtime.prepare(0, policy)
    assert fresh_keras.config.dtype_policy().name == policy
    metadata = machine.metadata()
    assert metadata["precision"] == policy
    assert metadata["versions"]["keras"] == fresh_keras.__version__
    assert metadata["device"]
    assert metadata["device_reason"].startswith("TensorFlow sees ")


def test_auto_follows_the_hardware(fresh_keras: Any) -> None:
    machine = runtime.prepare(0, "auto")
    if machine.device == "CPU":
        assert machine.precision == choose_precision("auto", False, None, runtime.cpu_flags())[0]
    assert machine.precision in ("float32", "mixed_bfloat16", "mixed_float16")


def test_the_flags_of_the_cpu_are_words() -> None:
    assert all(flag and " " not in flag for flag in runtime.cpu_flags())
