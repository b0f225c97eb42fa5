"""`python -m pipeline` is the same as `digits`."""

import sys

if __name__ == "__main__":  # not in the processes that `train --jobs` starts
    try:
        from pipeline.cli import main
    except ModuleNotFoundError as error:
        if (error.name or "pipeline").startswith("pipeline"):
            raise
        print(
            f"digits: {sys.executable} has no {error.name}; `make status` creates the environment "
            ".venv, and `. .venv/bin/activate` selects it",
            file=sys.stderr,
        )
        sys.exit(2)
    main()
