"""`python -m pipeline` is `digits`, run from the folder that you stand in."""

from pipeline.cli import main

main()
