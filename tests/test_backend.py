"""backend.py: nothing of the user's own Keras settings or environment reaches a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each test imports Keras in a process of its own.
pytestmark = pytest.mark.slow

PROGRAM = """\
import os
from pipeline.backend import keras
config = keras.config
kept = [name for name in os.environ if name.startswith(("TF_ENABLE", "TF_VAR"))]
print("found", config.backend(), config.floatx(), config.epsilon(), config.image_data_format(),
      config.max_epochs(), *kept)
"""
USUAL = "found tensorflow float32 1e-07 channels_last None"


def import_keras(home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "KERAS_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_keras_json_changes_nothing(tmp_path: Path) -> None:
    settings = {
        "floatx": "float64",
        "epsilon": 1e-3,
        "backend": "jax",
        "image_data_format": "channels_first",
    }
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    assert import_keras(tmp_path).stdout.splitlines() == [USUAL]


def test_the_environment_changes_nothing_and_what_is_ignored_is_named(tmp_path: Path) -> None:
    settings = {
        "KERAS_BACKEND": "torch",
        "KERAS_MAX_EPOCHS": "1",
        "NVIDIA_TF32_OVERRIDE": "1",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
        "XLA_FLAGS": "--no_such_flag",
    }
    said = import_keras(tmp_path, **settings).stdout.splitlines()
    assert said.pop() == USUAL
    assert [line.split()[1] for line in said] == [f"{name}={settings[name]}" for name in settings]


def test_what_changes_no_result_is_kept_and_not_mentioned(tmp_path: Path) -> None:
    """Terraform's variables begin with TF_ too."""
    usual = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2", "TF_LOG": "trace"}
    process = import_keras(tmp_path, **usual, TF_VAR_region="north", TF_WORKSPACE="live")
    assert process.stdout.splitlines() == [f"{USUAL} TF_VAR_region"]


def test_keras_is_imported_without_what_is_not_used() -> None:
    names = ("sklearn", "pandas", "matplotlib")
    program = (
        f"import sys, pipeline.backend; print([n for n in {names} if n in sys.modules]); "
        "import sklearn, pandas, matplotlib; print('importable')"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.stdout.splitlines() == ["[]", "importable"]


@pytest.mark.parametrize("content", ['{"floatx": "int8"}', '{"epsilon": "small"}', "[1]"])
def test_a_keras_json_that_keras_refuses_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "keras.json").write_text(content)
    process = import_keras(tmp_path)
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert last.startswith(f"pipeline.errors.UserError: {tmp_path}/keras.json: ")
    assert "fix or remove this file" in last
