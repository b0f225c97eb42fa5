"""`python -m pipeline` is the same as `digits`."""

from pipeline.cli import main

if __name__ == "__main__":  # not in the processes that `train --jobs` starts
    main()
