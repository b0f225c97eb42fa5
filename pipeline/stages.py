"""What each stage reads and what it leaves: the graph that `make` walks.

data/<dataset>/raw/                  the three CSVs of the competition          (download)
data/<dataset>/tensors/              the same as arrays                         (preprocess)
data/<dataset>/folds/<split>/        which row is held out in which fold        (split)
data/<dataset>/<preset>/fold-<i>/    weights, history, probabilities            (train)
data/<dataset>/<preset>/ensemble/    the folds' probabilities put together      (ensemble)
submissions/<dataset>-<preset>.csv   the labels, in the competition's format    (write)
submissions/<dataset>-<preset>.html  what was learnt, and what was got wrong    (report)

Standard library only: `make` imports it each time it is run.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import config
from pipeline.artifacts import Step
from pipeline.errors import UserError
from pipeline.sources import NAMED, SOURCES, local

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Dataset:
    """A dataset's name, the source that delivers it, and the path of a folder or zip, if any."""

    name: str
    source: str
    path: Path | None = None


def dataset(word: str) -> Dataset:
    """What `DATASET=word` stands for.

    Raises:
        UserError: it is neither a source's name nor a folder or zip that can be used.
    """
    if word in NAMED:
        return Dataset(word, word)
    path = Path(word).expanduser()
    if not path.exists():
        raise UserError(
            f"there is no dataset {word!r}: give one of {', '.join(NAMED)}, or the path of a "
            "folder or zip that holds train.csv, test.csv and sample_submission.csv"
        )
    name = path.resolve().stem if path.is_file() else path.resolve().name
    if name in NAMED:
        raise UserError(f"{word}: rename it; {name} is the name of a dataset that is built in")
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise UserError(
            f"{word}: its name becomes the dataset's; use only letters, digits, - and _ in it"
        )
    return Dataset(name, "local", path.resolve())


def steps(data: Dataset, preset: config.Config) -> list[Step]:
    """Every step from the source to the submission, in the order in which data flows."""
    root, split = ROOT, preset.split
    home = root / "data" / data.name
    raw, tensors = home / "raw", home / "tensors"
    # Presets that divide the rows alike share one draw.
    drawn: dict[str, float] = {"split.folds": split.folds, "split.seed": split.seed}
    size = f"{split.folds}-folds"
    if split.folds == 1:
        drawn["split.holdout"] = split.holdout
        size = f"holdout-{split.holdout}"
    folds = home / "folds" / f"{size}-seed-{split.seed}"
    fold_ids = folds / "fold_ids.npy"
    images = tuple(
        tensors / f"{name}.npy" for name in ("train_images", "train_labels", "test_images")
    )

    csvs = [raw / name for name in ("train.csv", "test.csv", "sample_submission.csv")]
    solution = [raw / "solution.csv"] if SOURCES[data.source].KNOWS_ANSWERS else []
    result = [
        Step(
            name="download",
            stage="download",
            root=root,
            manifest=raw / "manifest.json",
            outputs=(*csvs, *solution),
            inputs=tuple(local.files(data.path).values()) if data.path else (),
            params={"source": data.source},
            code=SOURCES[data.source].CODE,
        ),
        Step(
            name="preprocess",
            stage="preprocess",
            root=root,
            manifest=tensors / "manifest.json",
            outputs=images,
            inputs=tuple(csvs),
            code=(
                "preprocess.py",
                *(f"csvs.py:{name}" for name in ("read_images", "read_labels", "check_fit")),
            ),
        ),
        Step(
            name="split",
            stage="split",
            root=root,
            manifest=folds / "manifest.json",
            outputs=(fold_ids,),
            inputs=(tensors / "train_labels.npy",),
            params=drawn,
            code=("split.py",),
        ),
    ]
    trainings = [
        _training(
            f"train {_alias(member, preset)}fold {fold}",
            home / member.name / f"fold-{fold}",
            member,
            fold,
            (*images, fold_ids),
        )
        for member in preset.members
        for fold in range(split.folds)
    ]
    result += trainings
    ensemble = home / preset.name / "ensemble"
    probabilities, metrics = ensemble / "test.npy", ensemble / "metrics.json"
    submission = root / "submissions" / f"{data.name}-{preset.name}.csv"
    result += [
        Step(
            name="ensemble",
            stage="ensemble",
            root=root,
            manifest=ensemble / "manifest.json",
            outputs=(ensemble / "oof.npy", probabilities, metrics),
            inputs=(
                *(path for training in trainings for path in training.outputs[-2:]),
                tensors / "train_labels.npy",
                fold_ids,
            ),
            code=("ensemble.py",),
        ),
        Step(
            name="write",
            stage="write",
            root=root,
            manifest=submission.with_suffix(".json"),
            outputs=(submission,),
            inputs=(probabilities, metrics, raw / "sample_submission.csv"),
            params={"dataset": data.name, "source": data.source, "preset": preset.name},
            code=("write.py", "csvs.py:read_labels", "csvs.py:check_submission"),
        ),
        Step(
            name="report",
            stage="report",
            root=root,
            manifest=submission.with_suffix(".html.json"),
            outputs=(submission.with_suffix(".html"),),
            inputs=(
                *images,
                fold_ids,
                *(ensemble / name for name in ("oof.npy", "test.npy", "metrics.json")),
                *(path for training in trainings for path in training.outputs[:2]),
                *(training.manifest for training in trainings),  # time and device
                *solution,
                *(path for path in (root / "submissions" / "ledger.csv",) if path.exists()),
            ),
            params={"dataset": data.name, "preset": preset.name, "source": data.source},
            code=("report.py", "report.html", "pictures.py", "augment.py", "csvs.py:read_labels"),
        ),
    ]
    return result


def named(steps: Iterable[Step], stage: str) -> Step:
    """The first step of a stage."""
    return next(step for step in steps if step.stage == stage)


def _training(
    name: str, folder: Path, preset: config.Config, fold: int, inputs: tuple[Path, ...]
) -> Step:
    """The step that trains one fold of one preset."""
    files = ("weights.keras", "history.csv", "oof.npy", "test.npy")
    return Step(
        name=name,
        stage="train",
        root=ROOT,
        manifest=folder / "manifest.json",
        outputs=tuple(folder / name for name in files),
        inputs=inputs,
        params={"fold": fold} | {f"train.{k}": v for k, v in asdict(preset.train).items()},
        code=(
            "train.py",
            "augment.py",
            "schedule.py",
            "runtime.py",
            f"networks.py:{preset.train.network}",
        ),
    )


def _alias(member: config.Config, preset: config.Config) -> str:
    """What tells a training from that of another preset, where both are at work at a time."""
    several = preset.others or member.name.startswith("sweeps/")
    return f"{Path(member.name).name} " if several else ""


def folders(trainings: Iterable[Step]) -> dict[str, list[Path]]:
    """The folders of the trained folds, in their order, by the name of the preset."""
    found: dict[str, list[Path]] = {}
    for step in trainings:
        if step.stage == "train":
            folder = step.manifest.parent
            found.setdefault(folder.parent.name, []).append(folder)
    return found
