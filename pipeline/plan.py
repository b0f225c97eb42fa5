"""Tell `make` which files each stage stands for, and which of them are stale.

`python -m pipeline.plan DATASET CONFIG` prints words that the Makefile takes apart:
`train=data/sample/demo/fold-0/manifest.json`, `stale=…`. A stale step is looked at once more when
its turn comes, as what it rests on may have come out the same; but whoever deletes an artifact
wants what rests on it made again too, and that is said by `again=…`. What another process has made
since `asked=…` (nanoseconds since 1970) is not made once more for that.

What killed runs left, and no step goes on from, is removed.

Nothing here imports more than the standard library, so that it works before anything is installed,
and in a tenth of a second.
"""

import sys
import time
from pathlib import Path

from pipeline import config, stages
from pipeline.artifacts import staleness, stat_cache, tidy
from pipeline.errors import one_line


def main(dataset: str, preset: str) -> None:
    """Print the words for one dataset and preset."""
    steps = stages.steps(stages.dataset(dataset), config.load(preset))
    asked = time.time_ns()
    with stat_cache(stages.ROOT) as cache:
        reasons = staleness(steps, cache)
    tidy(steps, reasons)
    print(f"asked={asked}")
    deleted: set[Path] = set()
    for step in steps:
        target = step.label(step.manifest)
        print(f"{step.stage}={target}")
        gone = not all(path.exists() for path in (step.manifest, *step.outputs))
        rests_on_deleted = not deleted.isdisjoint(step.inputs)
        if gone or rests_on_deleted:
            deleted.update(step.outputs)
        if rests_on_deleted and not gone:
            print(f"again={target}")
        if reasons[step.name] is not None:
            print(f"stale={target}")


if __name__ == "__main__":
    with one_line():
        main(*sys.argv[1:])
