"""The options that several commands share."""

from typing import Annotated

import typer

from pipeline.train.engines import Engine

DATASETS = "kaggle, sample, mnist, fashion, or a folder or zip with the competition's CSVs."
CLUSTER = "Address of a Ray cluster; without it, one is started here and stopped afterwards."
DatasetOption = Annotated[str, typer.Option("--dataset", help=DATASETS)]
PresetOption = Annotated[str, typer.Option("--config", help="A preset's name, or a TOML file.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Run even if everything is fresh.")]
JOBS = "Folds to train at a time; by default one for each GPU, or one."
JobsOption = Annotated[int | None, typer.Option("--jobs", min=1, help=JOBS)]
ENGINES = "This machine, a Ray cluster, or Kaggle."
EngineOption = Annotated[Engine, typer.Option("--engine", help=ENGINES)]
AddressOption = Annotated[str | None, typer.Option("--address", envvar="RAY_ADDRESS", help=CLUSTER)]
KINDS = "What a fold needs on a cluster or Kaggle: none, gpu, or a kind of GPU in its words."
AcceleratorOption = Annotated[str, typer.Option("--accelerator", help=KINDS)]
