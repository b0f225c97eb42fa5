"""The stages: for each, what it reads and writes, its parameters and its function.

They are declared in the order in which data flows. `digits STAGE` and the graph come from these
declarations. To add a stage, write its function in a module of its own, declare it here, and add
one line to the Makefile.

Standard library only: every command imports this module.
"""

import os
import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.artifacts import Files, Task
from pipeline.config import Preset
from pipeline.download import Dataset, user_files
from pipeline.download import dataset as find_dataset

ROOT = Path(__file__).resolve().parents[1]
LEDGER = ROOT / "submissions" / "ledger.csv"


@dataclass(frozen=True)
class Choice:
    """What a task is for: a graph, and in a stage that runs per fold, one preset and fold of it."""

    graph: "Graph"
    dataset: Dataset
    preset: Preset
    fold: int = 0


@dataclass(frozen=True)
class Stage:
    """The declaration of one stage.

    Attributes:
        name: of the stage and of its command.
        help: what it does, for `--help`.
        function: "pipeline.split:split", called with the paths and parameters below, by name; it
            returns metadata for the manifest.
        folder: where its files go; filled in from a Choice.
        reads: files that earlier stages write: "split.fold_ids", which is named fold_ids here, or
            "fold_oof=train.oof" to name it otherwise. Of a stage that runs per fold, these are the
            files of all folds, in lists, by preset. "?" at the end: only where the labels of the
            test set are public.
        writes: file names in `folder`, named as their stems or as above; "?" as above.
        params: the stage's own parameters, and nothing else's: a change of them makes it stale.
        code: what counts as its code beside the function: definitions that a parameter names, and
            files in other languages (see `code.fingerprints`).
        files: what it reads that no stage writes.
        per_fold: whether it runs once for each fold of each member of the preset.
        manifest: the manifest's file name in `folder`.
    """

    name: str
    help: str
    function: str
    folder: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    params: Callable[[Choice], Mapping[str, Any]] = lambda choice: {}
    code: Callable[[Choice], tuple[str, ...]] = lambda choice: ()
    files: Callable[[Choice], Mapping[str, Files]] = lambda choice: {}
    per_fold: bool = False
    manifest: str = "manifest.json"


ARRAYS = ("preprocess.train_images", "preprocess.train_labels", "preprocess.test_images")
STAGES = (
    Stage(
        name="download",
        help="fetch the three CSVs. They go to data/DATASET/raw/.",
        function="pipeline.download:download",
        folder="data/{dataset.name}/raw",
        reads=(),
        writes=("train.csv", "test.csv", "sample_submission.csv", "solution.csv?"),
        params=lambda choice: {"source": choice.dataset.source},
        code=lambda choice: (f"pipeline.download.{choice.dataset.source}:fetch",),
        files=lambda choice: {"files": user_files(choice.dataset)},
    ),
    Stage(
        name="preprocess",
        help="turn the CSVs into arrays. They go to data/DATASET/arrays/.",
        function="pipeline.preprocess:preprocess",
        folder="data/{dataset.name}/arrays",
        reads=("download.train", "download.test", "download.sample_submission"),
        writes=("train_images.npy", "train_labels.npy", "test_images.npy"),
    ),
    Stage(
        name="split",
        help="assign each row to a fold. The folds go to data/DATASET/folds/.",
        function="pipeline.split:split",
        folder="data/{dataset.name}/folds/{preset.split.name}",
        reads=("preprocess.train_labels",),
        writes=("fold_ids.npy",),
        params=lambda choice: {"params": choice.preset.split.used},
    ),
    Stage(
        name="train",
        help="train a network for each fold. It goes to data/DATASET/CONFIG/fold-N/.",
        function="pipeline.train.fold:train",
        folder="data/{dataset.name}/{preset.name}/fold-{fold}",
        reads=(*ARRAYS, "split.fold_ids"),
        writes=("weights.keras", "history.csv", "oof.npy", "test.npy", "augmented.npy"),
        params=lambda choice: {"fold": choice.fold, "params": choice.preset.train},
        code=lambda choice: (f"pipeline.train.networks:{choice.preset.train.network}",),
        per_fold=True,
    ),
    Stage(
        name="ensemble",
        help="average the folds' predictions. They go to data/DATASET/CONFIG/ensemble/.",
        function="pipeline.ensemble:ensemble",
        folder="data/{dataset.name}/{preset.name}/ensemble",
        reads=(
            *("fold_oof=train.oof", "fold_test=train.test"),
            *("preprocess.train_labels", "split.fold_ids"),
        ),
        writes=("oof.npy", "test.npy", "metrics.json"),
    ),
    Stage(
        name="write",
        help="write the CSV for Kaggle. It is submissions/DATASET-CONFIG.csv.",
        function="pipeline.write:write",
        folder="submissions",
        reads=("ensemble.test", "ensemble.metrics", "download.sample_submission"),
        writes=("submission={dataset.name}-{preset.name}.csv",),
        params=lambda choice: {
            "dataset": choice.dataset.name,
            "source": choice.dataset.source,
            "preset": choice.preset.name,
        },
        manifest="{dataset.name}-{preset.name}.json",
    ),
    Stage(
        name="report",
        help="write the report. It is submissions/DATASET-CONFIG.html.",
        function="pipeline.report.page:report",
        folder="submissions",
        reads=(
            *(*ARRAYS, "split.fold_ids", "ensemble.oof", "ensemble.test", "ensemble.metrics"),
            *("train.augmented", "histories=train.history", "manifests=train.manifest"),
            *("write.submission", "download.solution?"),
        ),
        writes=("page={dataset.name}-{preset.name}.html",),
        params=lambda choice: {
            "source": choice.dataset.source,
            "title": f"{choice.dataset.name}, {choice.preset.name}",
            "command": choice.graph.command("submission"),
        },
        code=lambda choice: ("report/page.html",),
        files=lambda choice: {"ledger": LEDGER} if LEDGER.exists() else {},
        manifest="{dataset.name}-{preset.name}.html.json",
    ),
)


@dataclass(frozen=True)
class Graph:
    """The tasks for a dataset and a preset, in the order in which data flows."""

    dataset: Dataset
    preset: Preset
    tasks: list[Task]

    def task(self, stage: str) -> Task:
        """The task of a stage that runs once."""
        [task] = self.all(stage)
        return task

    def all(self, stage: str) -> list[Task]:
        """The tasks of a stage."""
        return [task for task in self.tasks if task.stage == stage]

    def up_to(self, stage: str) -> list[Task]:
        """The tasks of a stage and of those before it."""
        return self.tasks[: self.tasks.index(self.all(stage)[-1]) + 1]

    def command(self, target: str, folder: Path | None = None) -> str:
        """What to type to make a target, in the project's folder or in another one."""
        away = folder is not None and not folder.samefile(ROOT)
        words = ["make", *(["-C", str(ROOT)] if away else []), target]
        for variable, default, name, path in (
            ("DATASET", "kaggle", self.dataset.name, self.dataset.path),
            ("CONFIG", "default", self.preset.name, self.preset.path),
        ):
            word = name if not path else str(path) if away else os.path.relpath(path, ROOT)
            if word != default:
                words.append(f"{variable}={word}")
        return shlex.join(words)

    def command_here(self, target: str) -> str:
        """What to type to make a target where the user is, with the same Python."""
        none = os.environ.get("VENV") == "none"  # make passes on what its command line has
        python = [f"PYTHON={os.environ['PYTHON']}"] if "PYTHON" in os.environ else []
        more = ["VENV=none", *python] if none else []
        return shlex.join([*shlex.split(self.command(target, here())), *more])


def here() -> Path:
    """The folder that the user is in, which is not the current one after `make -C`."""
    return Path(os.environ.get("DIGITS_HERE") or Path.cwd())


def load(dataset: str, preset: str) -> Graph:
    """The tasks for a dataset and a preset as the user names them; raises UserError."""
    return graph(find_dataset(dataset), config.load(preset))


def graph(dataset: Dataset, preset: Preset) -> Graph:
    """The tasks for a dataset and a preset."""
    empty = Graph(dataset, preset, [])
    made: Made = {}
    for stage in STAGES:
        choices = [Choice(empty, dataset, preset)]
        if stage.per_fold:
            folds = range(preset.split.folds)
            members = preset.members
            choices = [Choice(empty, dataset, m, fold) for m in members for fold in folds]
        made[stage.name] = [(choice, _task(stage, choice, made)) for choice in choices]
    return Graph(dataset, preset, [task for group in made.values() for _, task in group])


Made = dict[str, list[tuple[Choice, Task]]]


def _task(stage: Stage, choice: Choice, made: Made) -> Task:
    def filled(template: str) -> str:
        return template.format(dataset=choice.dataset, preset=choice.preset, fold=choice.fold)

    name = stage.name
    if stage.per_fold:
        # The preset is part of the name only where several are trained at once.
        preset = choice.graph.preset
        several = preset.others or preset.name.startswith("sweeps/")
        name += f" {_short(choice.preset)}" * bool(several) + f" fold {choice.fold}"
    folder = ROOT / filled(stage.folder)
    writes = [entry.rpartition("=") for entry in _present(stage.writes, choice)]
    return Task(
        name=name,
        stage=stage.name,
        root=ROOT,
        manifest=folder / filled(stage.manifest),
        function=stage.function,
        writes={name or Path(file).stem: folder / filled(file) for name, _, file in writes},
        reads={**_reads(stage, choice, made), **stage.files(choice)},
        params=stage.params(choice),
        code=stage.code(choice),
    )


def _reads(stage: Stage, choice: Choice, made: Made) -> dict[str, Files]:
    reads: dict[str, Files] = {}
    per_fold = {each.name for each in STAGES if each.per_fold}
    for entry in _present(stage.reads, choice):
        name, _, source = entry.rpartition("=")
        maker, _, file = source.partition(".")
        by_preset: dict[str, list[Path]] = defaultdict(list)
        for its, task in made[maker]:
            path = task.manifest if file == "manifest" else task.writes[file]
            by_preset[_short(its.preset)].append(path)
        reads[name or file] = dict(by_preset) if maker in per_fold else path
    return reads


def _present(entries: tuple[str, ...], choice: Choice) -> list[str]:
    """Without the "?", and without those that need public labels if there are none."""
    public = choice.dataset.labels_public
    return [entry.removesuffix("?") for entry in entries if public or not entry.endswith("?")]


def _short(preset: Preset) -> str:
    """The name of a member, without the folders of a trial or a sweep."""
    return Path(preset.name).name
