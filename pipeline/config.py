"""Every parameter of the pipeline: its default, its unit and its range; and the presets.

One dataclass for each stage that has parameters, one TOML table for each dataclass. A preset is a
short list of differences from the defaults below, or from the preset that `base` names: one of
`presets/*.toml`, or a file of your own.
"""

import contextlib
import dataclasses
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

PRESETS = Path(__file__).parent / "presets"
# Folders in data/<dataset>/ that are not presets.
RESERVED = ("raw", "arrays", "folds", "scratch", "sweeps", "bench")


def _param(default: Any, meaning: str, *limits: float, choices: tuple[str, ...] = ()) -> Any:
    """A parameter with its meaning and its lowest and highest value, or its choices."""
    low, high = limits or (0, float("inf"))
    limited = {"low": low, "high": high, "choices": choices}
    return field(default=default, metadata={"meaning": meaning, **limited})


@dataclass(frozen=True)
class Split:
    """The division of the labelled images; presets with the same values share one split."""

    folds: int = _param(5, "number of folds; 1 means a single hold-out", 1, 100)
    holdout: float = _param(0.15, "share of the rows held out if folds = 1", 0.01, 0.9)
    seed: int = _param(0, "seed of the split", 0, 2**31 - 1)

    @property
    def name(self) -> str:
        """The name of its folder: "5-folds-seed-0", "holdout-0.15-seed-0"."""
        parts = f"{self.folds}-folds" if self.folds > 1 else f"holdout-{self.holdout}"
        return f"{parts}-seed-{self.seed}"

    @property
    def used(self) -> "Split":
        """The same split, with `holdout` at its default if there are several folds to hold out."""
        return dataclasses.replace(self, holdout=Split.holdout) if self.folds > 1 else self


@dataclass(frozen=True)
class Train:
    """The training of one fold. The folds differ only in their rows and their random numbers."""

    network: str = _param("strided", "name of a module in train/networks/")
    width: int = _param(32, "channels of the network's first layers", 1, 1024)
    dropout: float = _param(0.0, "share of the last features dropped in training", 0, 0.95)

    epochs: int = _param(10, "passes over the training rows, at most", 1, 10_000)
    batch_size: int = _param(128, "images per step", 1, 65_536)
    optimizer: str = _param("rmsprop", "the optimiser", choices=("rmsprop", "adam"))
    learning_rate: float = _param(0.002, "the learning rate at its peak", 1e-9, 10)
    warmup: float = _param(0.1, "share of the steps in which it rises from 0 to its peak", 0, 1)
    decay: str = _param("linear", "from its peak to 0, or none", choices=("linear", "none"))
    rho: float = _param(0.9, "RMSprop's decay of the mean squared gradient", 0, 0.9999)
    label_smoothing: float = _param(0.05, "share of the target spread over all classes", 0, 0.9)
    ema_momentum: float = _param(
        0.99, "of the averaged weights, per step; lower in short runs; 0 = no averaging", 0, 0.99999
    )

    restore_best_weights: bool = _param(
        False,
        "keep the epoch with the lowest monitored loss; val_loss makes the estimate optimistic",
    )
    patience: int = _param(0, "epochs without improvement before stopping; 0 = never", 0, 10_000)
    monitor: str = _param(
        "val_loss", "the loss that both of these look at", choices=("val_loss", "loss")
    )

    rotation: float = _param(10.0, "augmentation: at most this many degrees either way", 0, 180)
    zoom: float = _param(0.1, "augmentation: scale each axis between 1 ± zoom", 0, 0.9)
    shift: float = _param(2.0, "augmentation: at most this many pixels along each axis", 0, 14)
    shear: float = _param(0.1, "augmentation: at most, pixels sideways per pixel of height", 0, 1)
    augment_after: int = _param(0, "augmentation: starts after this many epochs", 0, 10_000)
    predict_shift: int = _param(
        0, "predictions are means over all shifts of up to this many pixels; 0 = no shift", 0, 3
    )

    steps_per_execution: int = _param(8, "steps in the graph before returning to Python", 1, 10_000)
    precision: str = _param(
        "auto",
        "number format of convolutions; auto chooses it for the hardware",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    devices: int = _param(1, "GPUs that share each batch (MirroredStrategy)", 1, 64)
    seed: int = _param(0, "seed of weights, order, dropout and augmentation", 0, 2**31 - 1)
    limit: int = _param(0, "for trials: train on at most this many rows; 0 = all")

    @property
    def chosen(self) -> bool:
        """Whether its epoch is chosen by the loss on held-out rows."""
        return self.monitor == "val_loss" and bool(self.patience or self.restore_best_weights)

    @property
    def used(self) -> "Train":
        """The same, with every parameter at its default that has no effect on the results."""
        without_effect = {"steps_per_execution"}
        if not (self.patience or self.restore_best_weights):
            without_effect.add("monitor")
        if self.optimizer == "adam":
            without_effect.add("rho")
        if not (self.rotation or self.zoom or self.shift or self.shear):
            without_effect.add("augment_after")
        defaults = {name: getattr(Train, name) for name in without_effect}
        return dataclasses.replace(self, **defaults)


@dataclass(frozen=True)
class Ensemble:
    """The presets whose predictions are averaged."""

    members: tuple[str, ...] = _param(
        (), "presets whose folds are averaged, all with the same [split]; [] = this one"
    )


@dataclass(frozen=True)
class About:
    """Facts about a preset. They are not inherited, and change nothing."""

    use: str = _param("", "what it is for")
    accuracy: float = _param(0.0, "measured on held-out rows; 0 = not measured", 0, 1)
    seconds: float = _param(0.0, "training time on two cores with bfloat16; 0 = not measured")


@dataclass(frozen=True)
class Preset:
    """The parameters of all stages, under one name."""

    name: str = "default"
    about: About = About()
    split: Split = Split()
    train: Train = Train()
    ensemble: Ensemble = Ensemble()
    others: tuple["Preset", ...] = ()
    path: Path | None = None  # of a file of the user's own

    @property
    def members(self) -> tuple["Preset", ...]:
        """The presets whose networks are trained: this one, unless [ensemble] names others."""
        return self.others or (self,)


# The TOML tables, in the order of the stages.
TABLES: dict[str, type] = {"about": About, "split": Split, "train": Train, "ensemble": Ensemble}
# Keys that make a file with a base a sweep (see bench/sweep.py).
VARYING = {"seeds", "grid", "variants"}
TYPES: dict[type, str] = {
    **{int: "a whole number", float: "a number", str: "a string"},
    **{tuple: "a list of strings", bool: "true or false"},
}


def preset_names() -> list[str]:
    """List the presets that come with the pipeline."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def network_names() -> list[str]:
    """List the networks in train/networks/, without importing Keras."""
    folder = Path(__file__).parent / "train" / "networks"
    return sorted(path.stem for path in folder.glob("[a-z]*.py"))


def load(word: str) -> Preset:
    """Load a preset, by its name or from a TOML file.

        load("fast").split.folds  # 1

    Raises:
        UserError: there is no such preset, or something in it is unknown or out of range.
    """
    path = _path(word)
    tables, _ = _read(path)
    preset = parse(tables, path.stem, str(path))
    if path.parent != PRESETS:
        preset = dataclasses.replace(preset, path=path.resolve())
    if not preset.ensemble.members:
        return preset
    if "train" in tables:
        raise UserError(
            f"{path}: [train] has no effect, because ensemble.members names what is trained"
        )
    members = [load_named(each, path, "ensemble.members") for each in preset.ensemble.members]
    first = preset if "split" in tables else members[0]
    for position, member in enumerate(members):
        where = f"{path}: ensemble.members: {member.name}"
        if member.ensemble.members:
            raise UserError(f"{where} is itself an ensemble")
        if member.name in {other.name for other in members[:position]}:
            raise UserError(f"{where} is listed twice")
        if member.split != first.split:
            raise UserError(
                f"{where} has another [split] than {first.name}; all members must hold out the "
                "same rows"
            )
    return dataclasses.replace(preset, split=first.split, others=tuple(members))


def load_named(word: str, path: Path, key: str) -> Preset:
    """Load the preset that `key` in the file at `path` names, but not its members, as `load`."""
    with _named(f"{path}: {key}"):
        place = _path(word, path.parent)
        return parse(_read(place)[0], place.stem, str(place))


def origins(word: str) -> dict[str, str]:
    """Find which preset sets each parameter: {"train.width": "demo", …}, without those not set."""
    return _read(_path(word))[1]


def _path(word: str, folder: Path = Path()) -> Path:
    """Find the file of a preset, by its name or its path, relative to `folder`; it may be missing.

    Raises UserError if no preset can have this name.
    """
    names = preset_names()
    if word in names:
        return PRESETS / f"{word}.toml"
    if not word.endswith(".toml"):
        if Path(f"{word}.toml").exists():
            raise UserError(f"there is no preset {word!r}, did you mean {word}.toml?")
        raise UserError(
            f"there is no preset {word!r}{nearest(word, names)} (choose from {', '.join(names)}, "
            "or a .toml file)"
        )
    path = folder / Path(word).expanduser()
    if path.stem in names and path.resolve().parent != PRESETS.resolve():
        raise UserError(
            f"{path}: choose another name; {path.stem} is a preset that comes with the pipeline, "
            "and their results would share one folder"
        )
    if path.stem in RESERVED:
        raise UserError(f"{path}: a preset cannot be named {path.stem}; data/ uses that name")
    if not re.fullmatch("[A-Za-z0-9_-]+", path.stem):
        raise UserError(f"{path}: a preset's name may only contain letters, digits, - and _")
    return path


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Put the place that named a file before the message about the file."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def _read(
    path: Path, heirs: tuple[Path, ...] = ()
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Read a preset's tables, and which preset sets each parameter: {"train.width": "demo", …}.

    A table has what it inherits, too. `heirs` are the files that inherit from this one.
    """
    tables = read_toml(path)
    if tables.keys() & VARYING:
        raise UserError(f"{path}: this is a sweep, not a preset: run `digits sweep {path}`")
    base = tables.pop("base", None)
    parse(tables, path.stem, str(path))
    origins = {f"{table}.{key}": path.stem for table, keys in tables.items() for key in keys}
    if base is None:
        return tables, origins
    if not isinstance(base, str):
        raise UserError(f'{path}: base must name a preset: base = "fast"')
    heirs = (*heirs, path.resolve())
    with _named(f"{path}: base"):
        place = _path(base, path.parent)
        if place.resolve() in heirs:
            raise UserError(f"{place}: a preset cannot inherit from itself")
        inherited, set_by = _read(place, heirs)
    inherited.pop("about", None)
    merged = {table: inherited.get(table, {}) | keys for table, keys in tables.items()}
    return inherited | merged, set_by | origins


def trial(preset: Preset, **changes: int | None) -> Preset:
    """Return a preset with fewer epochs or rows, under a name that keeps its files separate."""
    changes = {key: value for key, value in changes.items() if value is not None}
    others = tuple(trial(member, **changes) for member in preset.others)
    return dataclasses.replace(variant(preset, f"scratch/{preset.name}", changes), others=others)


def variant(base: Preset, name: str, changes: Mapping[str, Any], where: str = "") -> Preset:
    """Return a preset with another name and some [train] parameters changed, checked as `parse`."""
    train = parse({"train": dict(changes)}, name, where).train
    changed = {key: getattr(train, key) for key in changes}
    return dataclasses.replace(base, name=name, train=dataclasses.replace(base.train, **changed))


def parse(tables: Mapping[str, Any], name: str, where: str) -> Preset:
    """Make a preset of the tables of a TOML file, checked against the parameters above.

    Raises:
        UserError: an unknown table or key, a wrong type, a value out of range; it names `where`.
    """
    parameters = {table: {p.name: p for p in fields(kind)} for table, kind in TABLES.items()}
    homes = {key: table for table, keys in parameters.items() for key in keys}
    parts = {}
    for table, values in tables.items():
        if table in homes:
            raise UserError(f"{where}: put {table} under [{homes[table]}]")
        if table not in TABLES:
            raise UserError(f"{where}: unknown table [{table}]{nearest(table, TABLES)}")
        if not isinstance(values, dict):
            raise UserError(f"{where}: {table} must be a table: write [{table}] above its keys")
        known = parameters[table]
        for key in values:
            if key not in known and key in homes:
                raise UserError(f"{where}: put {key} under [{homes[key]}], not [{table}]")
            if key not in known:
                raise UserError(f"{where}: unknown key {table}.{key}{nearest(key, known)}")
        checked = {
            key: _checked(known[key], value, f"{where}: {table}.{key}")
            for key, value in values.items()
        }
        parts[table] = TABLES[table](**checked)
    return Preset(name=name, **parts)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raise UserError if there is none, or it is not valid TOML."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
        if start in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start:
            raise UserError(f"{path}: this is UTF-16; save it as UTF-8")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: {error}; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also for numbers and nesting without end
        lines, place = text.rstrip("\n").split("\n"), re.search(r"at line (\d+)", str(error))
        number = int(place[1]) if place else len(lines)
        _check_characters(path, number, lines[number - 1])
        raise UserError(f"{path}: not valid TOML: {error}") from error


def _check_characters(path: Path, number: int, line: str) -> None:
    """Raise UserError about a character that only looks like one that TOML knows."""
    for column, character in enumerate(line, start=1):
        plain = unicodedata.normalize("NFKC", character)
        place = f"{path}, line {number}, column {column}: {character!r}"
        if "QUOTATION MARK" in unicodedata.name(character, "") and character not in "\"'":
            raise UserError(f"{place} is a curly quote; TOML takes only straight ones")
        if plain != character and plain.isascii():
            raise UserError(f"{place} only looks like {plain!r}; write the plain character")


def _checked(parameter: "Field[Any]", value: Any, where: str) -> Any:
    wanted, choices = type(parameter.default), _choices(parameter)
    if wanted is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else float("inf")  # outside every range
    if wanted is tuple and type(value) is list and all(type(item) is str for item in value):
        value = tuple(value)
    expected, near, text = TYPES[wanted], "", repr(value)
    if type(value) is wanted:
        low, high = parameter.metadata["low"], parameter.metadata["high"]
        if value in choices if choices else wanted not in (int, float) or low <= value <= high:
            return value
        expected, near = allowed(parameter), nearest(text, choices)
    short = text if len(text) <= 60 else f"{text[:60]}…"
    raise UserError(f"{where} must be {expected}, not {short}{near}")


def _choices(parameter: "Field[Any]") -> Sequence[str]:
    choices: tuple[str, ...] = parameter.metadata["choices"]
    return network_names() if parameter.name == "network" else choices


def allowed(parameter: "Field[Any]") -> str:
    """Say which values a parameter may have: "between 1 and 1024"."""
    low, high = parameter.metadata["low"], parameter.metadata["high"]
    if choices := _choices(parameter):
        return f"one of {', '.join(choices)}"
    if type(parameter.default) not in (int, float):
        return TYPES[type(parameter.default)]
    return f"between {low} and {high}" if high < float("inf") else f"at least {low}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Ask whether the most similar known word was meant, if one is near."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""
