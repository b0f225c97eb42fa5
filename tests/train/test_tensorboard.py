"""tensorboard.py: event files that TensorBoard can read, only where they are asked for."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.train.tensorboard import Events

ROWS = [{"epoch": epoch, "loss": 0.5 / epoch, "val_accuracy": 0.9} for epoch in (1, 2, 3)]


def read(folder: Path) -> list[Any]:
    from pipeline.backend import tf

    files = sorted(str(path) for path in folder.glob("events.out.tfevents.*"))
    records = tf.data.TFRecordDataset(files)
    return [tf.compat.v1.Event.FromString(record.numpy()) for record in records]


@pytest.mark.parametrize("value", [None, "", "0"])
def test_nothing_is_written_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("TENSORBOARD", raising=False)
    if value is not None:
        monkeypatch.setenv("TENSORBOARD", value)
    Events(tmp_path / "demo" / "fold-0", resumed=False).add(ROWS)
    assert list(tmp_path.iterdir()) == []


def test_a_scalar_for_each_column_at_each_epoch_until_a_new_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD", "1")
    fold, logs = tmp_path / "demo" / "fold-2", tmp_path / "demo" / "logs" / "fold-2"
    Events(fold, resumed=False).add(ROWS[:2])
    Events(fold, resumed=True).add(ROWS[2:])
    events = read(logs)
    assert events[0].file_version == "brain.Event:2"
    rows = {event.step: event.summary.value for event in events if event.step}
    assert list(rows) == [1, 2, 3]
    for row in ROWS:
        found = {value.tag: value.simple_value for value in rows[int(row["epoch"])]}
        assert found == pytest.approx({"epoch/loss": row["loss"], "epoch/val_accuracy": 0.9})
    Events(fold, resumed=False).add(ROWS[:1])
    assert [event.step for event in read(logs) if event.step] == [1]
