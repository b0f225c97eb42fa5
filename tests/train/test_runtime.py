"""runtime.py, environment.py: what a fold is trained with, and what of that changes the bytes."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import environment
from pipeline.environment import choose_precision
from pipeline.train import fold, runtime

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
    fold._seed_everything(seed, "float32")
    from pipeline.backend import keras

    keras_draw = float(np.asarray(keras.random.uniform(())))
    return [random.random(), float(np.random.random()), keras_draw]


def test_a_seed_seeds_all_random_number_generators(fresh_keras: Any) -> None:
    first, other, again = draws(1), draws(2), draws(1)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_precision_is_the_dtype_policy(fresh_keras: Any, policy: str) -> None:
    fold._seed_everything(0, policy)
    assert fresh_keras.config.dtype_policy().name == policy


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> environment.Environment:
    """Prepare this process, except for its threads, of which TensorFlow takes the number once."""
    monkeypatch.setattr(runtime, "_fix_threads", environment.threads)
    return runtime.prepare("auto")


def test_what_was_chosen_is_reported(here: environment.Environment, fresh_keras: Any) -> None:
    metadata = here.metadata()
    assert metadata["precision"] in ("float32", "mixed_bfloat16", "mixed_float16")
    assert metadata["versions"]["keras"] == fresh_keras.__version__
    assert set(metadata["versions"]) == {"tensorflow", "keras", "numpy", "python"}
    assert metadata["device"]
    assert metadata["device_reason"].startswith("TensorFlow sees ")


def test_without_a_gpu_tensorflow_need_not_be_asked(
    here: environment.Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "DRIVER", tmp_path)
    (tmp_path / "nvidiactl").touch()
    found = environment.without_gpu("auto")
    assert found is not None
    if here.device_reason == "TensorFlow sees no GPU":
        assert found.name == here.name
    (tmp_path / "nvidia0").touch()
    assert environment.without_gpu("auto") is None


def test_the_flags_of_the_cpu_are_words() -> None:
    assert all(flag and " " not in flag for flag in environment.cpu_flags())


CPU = environment.Environment(
    device="CPU (AVX2)",
    device_reason="no GPU",
    precision="float32",
    precision_reason="asked for",
    threads=2,
    versions={"tensorflow": "2.20.0", "keras": "3.12.0", "numpy": "2", "python": "3"},
    node="kite",
)


def test_an_environment_has_a_name_for_files_from_what_changes_the_bytes() -> None:
    assert CPU.name == (
        "precision-float32-device-cpu-avx2-threads-2-tensorflow-2.20.0-keras-3.12.0"
    )
    reasons = {"device_reason": "other", "precision_reason": "other", "node": "other"}
    assert replace(CPU, **reasons, versions={**CPU.versions, "numpy": "1"}).name == CPU.name
    others = [{"device": "Tesla T4/0"}, {"precision": "mixed_float16"}, {"threads": 4}]
    others += [{"versions": {**CPU.versions, name: "4"}} for name in ("tensorflow", "keras")]
    names = {replace(CPU, **other).name for other in others}
    assert len(names - {CPU.name}) == len(others)
    assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in names)


def test_differences_name_the_value_and_the_folds() -> None:
    def said(*others: dict[str, Any]) -> list[str]:
        folds = {f"fold {i}": CPU.metadata() | other for i, other in enumerate(others)}
        return environment.differences(folds)

    bfloat16, four = {"precision": "mixed_bfloat16"}, {"threads": 4}
    assert environment.differences({}) == said({}, {"node": "owl", "device_reason": "x"}) == []
    assert said({}, bfloat16) == ["precision: float32 in fold 0, mixed_bfloat16 in fold 1"]
    assert said({}, {}, four, four, four) == [
        "threads: 2 in fold 0 and fold 1, 4 in fold 2 to fold 4"
    ]
    assert said(four, bfloat16, {"versions": {"keras": "4"}}) == [
        "precision: float32 in fold 0 and fold 2, mixed_bfloat16 in fold 1",
        "threads: 4 in fold 0, 2 in fold 1 and fold 2",
        "keras: 3.12.0 in fold 0 and fold 1, 4 in fold 2",  # which did not record its tensorflow
    ]
