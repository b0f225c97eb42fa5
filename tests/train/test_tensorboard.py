"""tensorboard.py: event files that TensorBoard can read, only where they are asked for."""

from pathlib import Path

import pytest

from pipeline.train.tensorboard import Events

ROWS = [{"epoch": epoch, "loss": 0.5 / epoch, "val_accuracy": 0.9} for epoch in (1, 2, 3)]


def read(folder: Path) -> dict[int, dict[str, float]]:
    """By step, the values by their names."""
    from pipeline.backend import tf

    found: dict[int, dict[str, float]] = {}
    for path in folder.glob("events.out.tfevents.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                found.setdefault(event.step, {})[value.tag] = number
    return found


@pytest.mark.parametrize("value", ["", "0"])
def test_nothing_is_written_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
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
    found = read(logs)
    assert sorted(found) == [1, 2, 3]
    for row in ROWS:
        wanted = {"epoch/loss": row["loss"], "epoch/val_accuracy": 0.9}
        assert found[int(row["epoch"])] == pytest.approx(wanted)
    again = Events(fold, resumed=False)
    again.add(ROWS[:1])
    again.add(ROWS[1:2])
    assert len(list(logs.iterdir())) == 1
    assert sorted(read(logs)) == [1, 2]
