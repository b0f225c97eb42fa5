"""The stages: for each, what it reads and writes, its parameters and its function.

They are declared in the order in which data flows. `digits STAGE` and the graph come from these
declarations. To add a stage, write its function in a module of its own, declare it here, and add
one line to the Makefile.

Standard library only: every command imports this module.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import artifacts, config
from pipeline.config import Preset
from pipeline.datasets import SOURCES, Dataset, user_files
from pipeline.datasets import dataset as find_dataset
from pipeline.endings import command, command_here, command_to_confirm
from pipeline.errors import UserError
from pipeline.files import Cache, read_json
from pipeline.task import DECLARED, Files, Task

ROOT = Path(__file__).resolve().parents[1]
LEDGER = ROOT / "submissions" / "ledger.csv"


@dataclass(frozen=True)
class Stage:
    """The declaration of one stage: what it reads and writes, its parameters and its function.

    In `folder`, `writes`, `params`, `modules` and `manifest`, {dataset.…}, {preset.…} and {fold}
    stand for those of the task.
    """

    name: str  # of the stage and of its command
    help: str  # what it does, for `--help`
    # "pipeline.split:split", called with the paths, parameters and modules below, by their names;
    # it returns metadata for the manifest.
    function: str
    folder: str  # where its files go
    # Files that earlier stages write: "split.fold_ids", which is named fold_ids here, or
    # "fold_oof=train.oof" to name it otherwise. A per-fold stage's file arrives as {preset: [path
    # of fold 0, …]}. "?" at the end: only where the labels of the test set are public.
    reads: tuple[str, ...]
    writes: tuple[str, ...]  # in `folder`, named as their stems or as above; "?" as above
    # The stage's own parameters, and nothing else's: a text, or a value made from the task. A
    # change of them makes it stale.
    params: Mapping[str, str | Callable[[Dataset, Preset, int], Any]] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)  # that a preset chooses
    files: Callable[[Dataset], Mapping[str, Files]] = lambda dataset: {}  # what no stage writes
    # Whether a change of its code makes it stale; for a source that is read from elsewhere, no.
    ages: Callable[[Dataset], bool] = lambda dataset: True
    per_fold: bool = False  # it runs once for each fold of each member of the preset
    manifest: str = "manifest.json"  # the manifest's file name in `folder`


ARRAYS = ("preprocess.train_images", "preprocess.train_labels", "preprocess.test_images")
STAGES = (
    Stage(
        name="download",
        help="fetch the three CSVs. They go to data/DATASET/raw/.",
        function="pipeline.download:download",
        folder="data/{dataset.name}/raw",
        reads=(),
        writes=("train.csv", "test.csv", "sample_submission.csv", "solution.csv?"),
        params={"source": "{dataset.source}"},
        modules={"module": "pipeline.download.{dataset.source}"},
        files=lambda dataset: {"files": user_files(dataset)},
        ages=lambda dataset: dataset.source == "sample",
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
        reads=ARRAYS,
        writes=("fold_ids.npy", "remarks.json"),
        params={"params": lambda dataset, preset, fold: preset.split},
    ),
    Stage(
        name="train",
        help="train a network for each fold. It goes to data/DATASET/CONFIG/fold-N/.",
        function="pipeline.train.fold:train",
        folder="data/{dataset.name}/{preset.name}/fold-{fold}",
        reads=(*ARRAYS, "split.fold_ids"),
        writes=("weights.keras", "history.csv", "oof.npy", "test.npy", "augmented.npy"),
        params={
            "fold": lambda dataset, preset, fold: fold,
            "params": lambda dataset, preset, fold: preset.train,
        },
        modules={"network": "pipeline.train.networks.{preset.train.network}"},
        per_fold=True,
    ),
    Stage(
        name="ensemble",
        help="average the folds' predictions. They go to data/DATASET/CONFIG/ensemble/.",
        function="pipeline.ensemble:ensemble",
        folder="data/{dataset.name}/{preset.name}/ensemble",
        reads=(
            *("fold_oof=train.oof", "fold_test=train.test"),
            *("preprocess.train_labels", "split.fold_ids", "split.remarks"),
        ),
        writes=("oof.npy", "test.npy", "metrics.json"),
        params={
            "chosen": lambda dataset, preset, fold: [
                _short(member) for member in preset.members if member.train.chosen
            ]
        },
    ),
    Stage(
        name="write",
        help="write the CSV for Kaggle. It is submissions/DATASET-CONFIG.csv.",
        function="pipeline.write:write",
        folder="submissions",
        reads=("ensemble.test", "ensemble.metrics", "download.sample_submission"),
        writes=("submission={dataset.name}-{preset.name}.csv",),
        params={
            "dataset": "{dataset.name}",
            "source": "{dataset.source}",
            "preset": "{preset.name}",
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
        params={
            "title": "{dataset.name}, {preset.name}",
            # By its name, which is the same whether the user's own files are named or gone.
            "command": lambda dataset, preset, fold: command(
                "submission", replace(dataset, path=None), preset, ROOT
            ),
            "class_names": lambda dataset, preset, fold: list(SOURCES[dataset.source].class_names),
            "members": lambda dataset, preset, fold: {
                _short(member): asdict(member.train.used) for member in preset.members
            },
        },
        files=lambda dataset: {
            "template": ROOT / "pipeline" / "report" / "page.html",
            **({"ledger": LEDGER} if LEDGER.exists() else {}),
        },
        manifest="{dataset.name}-{preset.name}.html.json",
    ),
)


def recorded_seconds(tasks: list[Task]) -> float | None:
    """Add up how long tasks took when they last ran, from their manifests; None if not known.

    A fold that has never been trained counts as another of its preset.
    """
    total = 0.0
    for task in tasks:
        others = task.folder.parent.glob("fold-*/manifest.json")
        manifests = [task.manifest, *(sorted(others) if task.stage == "train" else [])]
        known = (artifacts.metadata(path).get("seconds") for path in manifests)
        seconds = next((each for each in known if each is not None), None)
        if seconds is None and task.stage == "train":
            return None
        total += seconds or 0.0
    return total


@dataclass(frozen=True)
class Graph:
    """The tasks for a dataset and a preset, in the order in which data flows."""

    dataset: Dataset
    preset: Preset
    tasks: list[Task]
    faults: Mapping[str, UserError]  # of stages that are declared wrongly and have no tasks

    def task(self, stage: str) -> Task:
        """Return the task of a stage that runs once."""
        [task] = self.all(stage)
        return task

    def all(self, stage: str) -> list[Task]:
        """Return the tasks of a stage; raise UserError if it is declared wrongly."""
        if stage in self.faults:
            raise self.faults[stage]
        return [task for task in self.tasks if task.stage == stage]

    def up_to(self, stage: str) -> list[Task]:
        """Return the tasks of a stage and of those before it."""
        return self.tasks[: self.tasks.index(self.all(stage)[-1]) + 1]

    def ensemble(self, quiet: bool = False) -> dict[str, Any]:
        """Find the files that the ensemble was made of; unless `quiet`, say if it is not fresh.

        Return paths by the names of what the stage reads, and "weights", {preset: [fold 0's, …]};
        raise UserError if it is missing or damaged, or one of these files has changed since.
        """
        remedy = self.command_here("ensemble")
        tasks = self.up_to("ensemble")
        with artifacts.stat_cache(ROOT) as cache:
            found = _read_then(tasks[-1], remedy, cache)
            weights = {
                member: [_weights_beside(path, remedy, cache) for path in paths]
                for member, paths in found["fold_oof"].items()
            }
        if not quiet and (line := artifacts.first_due(tasks)):
            print(f"{line}; this is of the earlier run, `{remedy}` brings it up to date")
        return found | {"weights": weights}

    def command_here(self, target: str) -> str:
        """Return what to type to make a target where the user is, with the same Python."""
        return command_here(target, self.dataset, self.preset, ROOT)

    def command_to_confirm(self) -> str:
        """Return what to type to submit results of a folder or zip, and confirm its origin."""
        return command_to_confirm(self.dataset, self.preset)


def _read_then(task: Task, remedy: str, cache: Cache) -> dict[str, Any]:
    """Find the files that a task's results were made of; raise UserError if one has changed."""
    if wrong := artifacts.damage(task, cache):
        raise UserError(f"{task.name}: {wrong}; run `{remedy}` first")
    manifest = read_json(task.manifest) or {}
    for label in artifacts.changed(manifest["inputs"], task.root, cache):
        raise UserError(f"{label} has changed since {task.name} read it; run `{remedy}` first")

    def paths(group: Any) -> Any:
        if isinstance(group, dict):
            return {name: paths(each) for name, each in group.items()}
        return [task.root / p for p in group] if isinstance(group, list) else task.root / group

    return dict(paths(manifest.get("names", task.names())["reads"]))


def _weights_beside(oof: Path, remedy: str, cache: Cache) -> Path:
    """Find the weights with which a fold's file was predicted; raise UserError if they changed."""
    fold = read_json(oof.with_name("manifest.json")) or {"inputs": {}, "outputs": {}}
    weights = oof.with_name("weights.keras")
    for label in artifacts.changed({**fold["inputs"], **fold["outputs"]}, ROOT, cache):
        raise UserError(f"{label} has changed since the ensemble; run `{remedy}` first")
    if not {oof, weights} <= {ROOT / label for label in fold["outputs"]}:
        raise UserError(f"{oof.parent} is not as the ensemble read it; run `{remedy}` first")
    return weights


def load(dataset: str, preset: str) -> Graph:
    """Make the tasks for a dataset and a preset as the user names them; raises UserError.

    For example, `load("sample", "demo").task("split").writes["fold_ids"]` is a path in data/sample.
    """
    return graph(find_dataset(dataset, ROOT), config.load(preset))


def graph(dataset: Dataset, preset: Preset) -> Graph:
    """Make the tasks for a dataset and a preset."""
    made: dict[str, list[Task]] = {}
    faults: dict[str, UserError] = {}
    for stage in STAGES:
        choices = [(preset, 0)]
        if stage.per_fold:
            choices = [(it, fold) for it in preset.members for fold in range(preset.split.folds)]
        # The preset is part of a task's name only where several are trained at once.
        several = stage.per_fold and (preset.others or preset.name.startswith("sweeps/"))
        try:
            made[stage.name] = [
                _task(stage, dataset, member, fold, made, bool(several)) for member, fold in choices
            ]
        except Exception as error:  # a stage of the user's own; the others can be used
            said = (
                str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            )
            faults[stage.name] = UserError(f"{DECLARED}, stage {stage.name}: {said}")
    return Graph(dataset, preset, [task for group in made.values() for task in group], faults)


def _task(
    stage: Stage,
    dataset: Dataset,
    preset: Preset,
    fold: int,
    made: Mapping[str, list[Task]],
    several: bool,
) -> Task:
    def filled(template: str) -> str:
        try:
            return template.format(dataset=dataset, preset=preset, fold=fold)
        except (AttributeError, LookupError, ValueError) as error:
            names = "{dataset.name}, {preset.name}, {fold} and other fields of these"
            raise UserError(f"{template!r}: {error}; it may name {names}") from error

    def present(entries: tuple[str, ...]) -> list[str]:
        return [e.removesuffix("?") for e in entries if dataset.labels_public or e[-1] != "?"]

    words = [stage.name]
    if stage.per_fold:
        words += [_short(preset)] if several else []
        words.append(f"fold {fold}")
    folder = ROOT / filled(stage.folder)
    writes = [entry.rpartition("=") for entry in present(stage.writes)]
    params = {
        name: filled(value) if isinstance(value, str) else value(dataset, preset, fold)
        for name, value in stage.params.items()
    }
    reads = [*_reads(present(stage.reads), made), *stage.files(dataset).items()]
    files = [(name or Path(file).stem, folder / filled(file)) for name, _, file in writes]
    arguments = [*(name for name, _ in (*reads, *files)), *params, *stage.modules]
    if twice := [name for name in arguments if arguments.count(name) > 1]:
        raise UserError(f'{twice[0]!r} names two things; rename one, such as "other={twice[0]}"')
    return Task(
        name=" ".join(words),
        stage=stage.name,
        root=ROOT,
        manifest=folder / filled(stage.manifest),
        function=stage.function,
        preset=preset,
        fold=fold,
        writes=dict(files),
        reads=dict(reads),
        params=params,
        modules={name: filled(module) for name, module in stage.modules.items()},
        ages=stage.ages(dataset),
    )


def _reads(entries: list[str], made: Mapping[str, list[Task]]) -> list[tuple[str, Files]]:
    reads: list[tuple[str, Files]] = []
    per_fold = {each.name for each in STAGES if each.per_fold}
    for entry in entries:
        name, _, source = entry.rpartition("=")
        maker, _, file = source.partition(".")
        there = [{**task.writes, "manifest": task.manifest} for task in made.get(maker, [])]
        if not there or file not in there[0]:
            known = (
                f"{maker} writes {', '.join(there[0])}"
                if there
                else f"before it are {', '.join(made)}"
            )
            raise UserError(f"it reads {entry!r}, which no stage before it writes; {known}")
        by_preset: dict[str, list[Path]] = defaultdict(list)
        for task, files in zip(made[maker], there, strict=True):
            by_preset[_short(task.preset)].append(files[file])
        reads.append((name or file, dict(by_preset) if maker in per_fold else there[0][file]))
    return reads


def _short(preset: Preset) -> str:
    """Return the name of a member, without the folders of a trial or a sweep."""
    return Path(preset.name).name
