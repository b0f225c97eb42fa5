"""Tell `make` which files each stage stands for, and which of them are stale.

`python -m pipeline.plan DATASET CONFIG` prints words that the Makefile takes apart:
`train=data/sample/demo/fold-0/manifest.json`, `stale=…`. Nothing here imports more than the
standard library, so that it works before anything is installed, and in a tenth of a second.
"""

import sys

from pipeline import config, stages
from pipeline.artifacts import staleness, stat_cache
from pipeline.errors import UserError


def main(dataset: str, preset: str) -> None:
    """Print the words for one dataset and preset."""
    steps = stages.steps(stages.dataset(dataset), config.load(preset))
    with stat_cache(stages.ROOT) as cache:
        reasons = staleness(steps, cache)
    for step in steps:
        target = step.label(step.manifest)
        print(f"{step.stage}={target}")
        if reasons[step.name] is not None:
            print(f"stale={target}")
    print(f"submission={steps[-1].label(steps[-1].outputs[0])}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (UserError, OSError) as error:
        print(f"digits: {error}", file=sys.stderr)
        sys.exit(2)
