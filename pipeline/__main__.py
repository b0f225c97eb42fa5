"""`python -m pipeline` is `digits`, run from the folder that you stand in."""

from pipeline.cli import main

if __name__ == "__main__":  # which it is not in the processes that `train --jobs` starts
    main()
