"""The options that several commands share."""

from typing import Annotated

import typer

from pipeline import config, datasets, stages
from pipeline.errors import UserError
from pipeline.train.engines import Engine


def _named(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Refuse a dataset or preset that does not exist, and say if the environment names it."""
    source = context.get_parameter_source(parameter.name or "")
    if source and source.name == "ENVIRONMENT":
        try:
            if parameter.name == "dataset":
                datasets.dataset(value, stages.ROOT)
            else:
                config.load(value)
        except UserError as error:
            raise UserError(f"{parameter.envvar}={value} in the environment: {error}") from error
    return value


DATASETS = "kaggle, sample, mnist, fashion, or a folder or zip with the competition's CSVs."
PRESETS = "A preset's name, or a TOML file."
CLUSTER = "Address of a Ray cluster; without it, one is started here and stopped afterwards."
DatasetOption = Annotated[
    str, typer.Option("--dataset", envvar="DATASET", help=DATASETS, callback=_named)
]
PresetOption = Annotated[
    str, typer.Option("--config", envvar="CONFIG", help=PRESETS, callback=_named)
]
# Of commands that compare presets, for which the environment does not choose.
ComparedDatasetOption = Annotated[str, typer.Option("--dataset", help=DATASETS)]
ForceOption = Annotated[bool, typer.Option("--force", help="Run even if everything is fresh.")]
JOBS = "Folds to train at a time; by default one for each GPU, or one."
JobsOption = Annotated[int | None, typer.Option("--jobs", min=1, help=JOBS)]
ENGINES = "This machine, a Ray cluster, or Kaggle."
EngineOption = Annotated[Engine, typer.Option("--engine", help=ENGINES)]
AddressOption = Annotated[str | None, typer.Option("--address", envvar="RAY_ADDRESS", help=CLUSTER)]
KINDS = "What a fold needs on a cluster or Kaggle: none, gpu, or a kind of GPU in its words."
AcceleratorOption = Annotated[str, typer.Option("--accelerator", help=KINDS)]
