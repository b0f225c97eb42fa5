"""Event files for TensorBoard, written where TENSORBOARD is set in the environment.

`make train TENSORBOARD=1` leaves one file for each fold in data/DATASET/CONFIG/logs/, to be opened
with `tensorboard --logdir data/DATASET/CONFIG/logs`. TensorBoard itself is not needed to write it.
"""

import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path


class Events:
    """The event file of one run of one fold; none where TENSORBOARD is not set.

    Args:
        fold: the folder of the fold, data/DATASET/CONFIG/fold-N.
        resumed: whether the run continues an earlier one, whose file then stays.
    """

    def __init__(self, fold: Path, resumed: bool) -> None:
        self.writer = None
        if os.environ.get("TENSORBOARD", "") in ("", "0", "no", "false"):
            return
        from pipeline.backend import tf

        logs = fold.parent / "logs" / fold.name
        logs.mkdir(parents=True, exist_ok=True)
        if not resumed:
            for old in logs.glob("events.out.tfevents.*"):
                old.unlink()
        # The name by which TensorBoard recognises such files, and their order.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{time.time_ns()}"
        self.writer = tf.io.TFRecordWriter(str(logs / name))
        self._write(tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Write rows of the history: a scalar for each column, at the epoch as step."""
        if self.writer is None:
            return
        from pipeline.backend import tf

        summary = tf.compat.v1.Summary
        for row in rows:
            values = [
                summary.Value(tag=f"epoch/{name}", simple_value=value)
                for name, value in row.items()
                if name != "epoch"
            ]
            step, now = int(row["epoch"]), time.time()
            self._write(tf.compat.v1.Event(wall_time=now, step=step, summary=summary(value=values)))

    def _write(self, event: object) -> None:
        assert self.writer is not None
        self.writer.write(event.SerializeToString())  # type: ignore[attr-defined]
        self.writer.flush()
