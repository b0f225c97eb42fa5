"""Every parameter of the pipeline: its default, its unit, its range, and the presets.

One dataclass a stage, one TOML table a dataclass. A preset is a short difference from the defaults
below; it may be one of `presets/*.toml` or a file of the user's own.
"""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

PRESETS = Path(__file__).parent / "presets"


def _param(
    default: Any,
    meaning: str,
    low: float = 0,
    high: float = float("inf"),
    choices: tuple[str, ...] = (),
) -> Any:
    """A parameter with its meaning and, both ends included, the range of its values."""
    return field(
        default=default,
        metadata={"meaning": meaning, "low": low, "high": high, "choices": choices},
    )


@dataclass(frozen=True)
class Split:
    """How the labelled images are divided, once, for all presets that divide them alike."""

    folds: int = _param(5, "number of folds; 1 means a single hold-out", 1, 100)
    holdout: float = _param(0.15, "share of the rows held out when folds = 1", 0.01, 0.9)
    seed: int = _param(0, "seed of the draw", 0, 2**31 - 1)


@dataclass(frozen=True)
class Train:
    """How one fold is trained. The same for every fold but for the random numbers."""

    network: str = _param("strided", "name of a function in networks.py")
    width: int = _param(32, "channels of the network's first layers", 1, 1024)
    dropout: float = _param(0.0, "share of the last features dropped in training", 0, 0.95)

    epochs: int = _param(10, "passes over the training rows, at most", 1, 10_000)
    batch_size: int = _param(128, "images a step", 1, 65_536)
    optimizer: str = _param("rmsprop", "what follows the gradient", choices=("rmsprop", "adam"))
    learning_rate: float = _param(0.002, "the optimiser's, at its peak", 1e-9, 10)
    warmup: float = _param(
        0.1, "share of the steps in which the rate rises from 0 to its peak", 0, 1
    )
    decay: str = _param("linear", "the rate after its peak", choices=("linear", "none"))
    rho: float = _param(0.9, "memory of squared gradients, RMSprop's; Adam's is 0.999", 0, 0.9999)
    label_smoothing: float = _param(0.05, "share of the target spread over all classes", 0, 0.9)
    average: float = _param(
        0.99,
        "momentum of the averaged weights, a step; less in a short training; 0 = none",
        0,
        0.99999,
    )

    keep: str = _param(
        "last",
        "the epoch whose weights are kept: the last, or the one with the lowest loss (if that is "
        "the validation loss, the out-of-fold estimate is a little too good)",
        choices=("last", "best"),
    )
    patience: int = _param(0, "epochs without a lower loss before stopping; 0 = never", 0, 10_000)
    watch: str = _param(
        "val_loss", "the loss that patience and keep look at", choices=("val_loss", "loss")
    )

    rotation: float = _param(10.0, "augmentation: at most this many degrees either way", 0, 180)
    zoom: float = _param(
        0.1, "augmentation: scale between 1 - zoom and 1 + zoom, each axis", 0, 0.9
    )
    shift: float = _param(2.0, "augmentation: at most this many pixels along each axis", 0, 14)
    shear: float = _param(0.1, "augmentation: at most this much sideways a pixel of height", 0, 1)

    augment_after: int = _param(0, "augmentation: epochs without it at the beginning", 0, 10_000)

    steps_per_call: int = _param(
        8, "steps that run in the graph between two returns to Python", 1, 10_000
    )
    precision: str = _param(
        "auto",
        "number format of the convolutions; auto chooses by the hardware",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    devices: int = _param(
        1, "GPUs that share each batch, one model over all (tf.distribute.MirroredStrategy)", 1, 64
    )
    seed: int = _param(0, "seed of weights, order, dropout and augmentation", 0, 2**31 - 1)
    limit: int = _param(0, "for trials: train on no more than this many rows; 0 = all of them")


@dataclass(frozen=True)
class Ensemble:
    """Whose predictions are put together."""

    members: tuple[str, ...] = _param(
        (),
        "presets whose folds are put together, all on one split; [] = this preset alone",
    )


@dataclass(frozen=True)
class Config:
    """The parameters of all stages under one preset's name."""

    name: str = "default"
    split: Split = Split()
    train: Train = Train()
    ensemble: Ensemble = Ensemble()
    others: tuple["Config", ...] = ()

    @property
    def members(self) -> tuple["Config", ...]:
        """The presets whose networks are trained: this one, unless [ensemble] names others."""
        return self.others or (self,)


# The TOML tables, in the order of the stages.
TABLES: dict[str, type] = {"split": Split, "train": Train, "ensemble": Ensemble}


def preset_names() -> list[str]:
    """The presets that come with the pipeline, by name."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load(preset: str) -> Config:
    """The parameters of a preset.

    Args:
        preset: the name of a preset that comes with the pipeline, or a path to a TOML file.

    Raises:
        UserError: there is no such preset, or something in it is unknown or out of range.
    """
    path = _path(preset)
    tables = read_toml(path)
    if "base" in tables:
        raise UserError(f"{path}: this is a sweep and no preset: digits sweep {path}")
    settings = parse(tables, path.stem, str(path))
    if not settings.ensemble.members:
        return settings
    if "train" in tables:
        raise UserError(f"{path}: [train] has no effect, as ensemble.members names who is trained")
    members = _members(settings, path)
    split, whose = settings.split, path.name
    if "split" not in tables:
        split, whose = members[0].split, members[0].name
    for member in members:
        if member.split != split:
            raise UserError(
                f"{path}: ensemble.members: {member.name} has another [split] than {whose}; all "
                "have to hold out the same rows"
            )
    return dataclasses.replace(settings, split=split, others=members)


def _path(preset: str) -> Path:
    """The file of a preset, by its name or its path; it need not be there."""
    path = PRESETS / f"{preset}.toml"
    if not preset.endswith(".toml"):
        if preset not in preset_names():
            if Path(f"{preset}.toml").exists():
                raise UserError(f"there is no preset {preset!r}, did you mean {preset}.toml?")
            raise UserError(
                f"there is no preset {preset!r}{nearest(preset, preset_names())}; there are "
                f"{', '.join(preset_names())}, and CONFIG may also be a path to a .toml file"
            )
    else:
        path = Path(preset).expanduser()
        if path.stem in preset_names() and path.resolve().parent != PRESETS.resolve():
            raise UserError(
                f"{preset}: give it a name of its own; {path.stem} is a preset that comes with "
                "the pipeline, and their results would lie in one place"
            )
        if path.stem in ("raw", "tensors", "folds", "scratch", "sweeps"):
            raise UserError(f"{preset}: a preset cannot be named {path.stem}; data/ uses that name")
    if not path.stem.replace("-", "").replace("_", "").isalnum() or not path.stem.isascii():
        raise UserError(f"{preset}: a preset's name may hold letters, digits, - and _ only")
    return path


def load_named(word: str, path: Path, key: str) -> Config:
    """The preset that `key` of the file at `path` names; a path is seen from that file's folder.

    Of one that puts others together, these are not looked up: it might be among them itself.

    Raises:
        UserError: as `load` does, with file and key in front.
    """
    try:
        place = _path(str(path.parent / word) if word.endswith(".toml") else word)
        return parse(read_toml(place), place.stem, str(place))
    except UserError as error:
        raise UserError(f"{path}: {key}: {error}") from error


def _members(settings: Config, path: Path) -> tuple[Config, ...]:
    """The presets that another puts together."""
    members: list[Config] = []
    for word in settings.ensemble.members:
        member = load_named(word, path, "ensemble.members")
        if member.ensemble.members:
            raise UserError(f"{path}: ensemble.members: {word} is itself put together from others")
        if member.name in {other.name for other in members}:
            raise UserError(f"{path}: ensemble.members names {member.name} twice")
        members.append(member)
    return tuple(members)


def trial(settings: Config, epochs: int | None, limit: int | None) -> Config:
    """The same preset with fewer epochs or rows, under a name that keeps its files apart."""
    changes = {"epochs": epochs, "limit": limit}
    changed: dict[str, Any] = {k: value for k, value in changes.items() if value is not None}
    return dataclasses.replace(
        settings,
        name=f"scratch/{settings.name}",
        train=dataclasses.replace(settings.train, **changed),
        others=tuple(trial(member, epochs, limit) for member in settings.others),
    )


def variant(base: Config, name: str, changes: Mapping[str, Any], where: str) -> Config:
    """The same preset with some parameters of [train] changed.

    Args:
        base: the preset.
        name: the name of the new one.
        changes: values by the names of the parameters.
        where: the file that asks for it, for messages.

    Raises:
        UserError: an unknown key, a wrong type, a value out of range.
    """
    train = parse({"train": dict(changes)}, name, where).train
    changed = {key: getattr(train, key) for key in changes}
    return dataclasses.replace(base, name=name, train=dataclasses.replace(base.train, **changed))


def parse(tables: Mapping[str, Any], name: str, where: str) -> Config:
    """Check what a TOML file holds against the parameters above.

    Args:
        tables: the file as `tomllib` gives it.
        name: the preset's name.
        where: the file's name, for messages.

    Raises:
        UserError: an unknown table or key, a wrong type, a value out of range.
    """
    parts = {}
    for table, values in tables.items():
        if table not in TABLES:
            homes = [home for home, kind in TABLES.items() if table in _parameters(kind)]
            if homes:
                raise UserError(f"{where}: put {table} under [{homes[0]}]")
            raise UserError(f"{where}: unknown table [{table}]{nearest(table, TABLES)}")
        if not isinstance(values, dict):
            raise UserError(f"{where}: {table} has to be a table: write [{table}] above its keys")
        parameters = _parameters(TABLES[table])
        for key, value in values.items():
            homes = [home for home, kind in TABLES.items() if key in _parameters(kind)]
            if key not in parameters and homes:
                raise UserError(f"{where}: put {key} under [{homes[0]}], not [{table}]")
            if key not in parameters:
                raise UserError(f"{where}: unknown key {table}.{key}{nearest(key, parameters)}")
            values[key] = _checked(parameters[key], value, f"{where}: {table}.{key}")
        parts[table] = TABLES[table](**values)
    return Config(name=name, **parts)


def _parameters(table: type) -> dict[str, "dataclasses.Field[Any]"]:
    return {parameter.name: parameter for parameter in dataclasses.fields(table)}


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: there is no such file, or something else in it.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # numbers and nestings without end among them
        raise UserError(f"{path}: not valid TOML: {error}") from error


def _checked(parameter: "dataclasses.Field[Any]", value: Any, where: str) -> Any:
    wanted = type(parameter.default)
    if wanted is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else float("inf")  # in no parameter's range
    if wanted is tuple and type(value) is list and all(type(item) is str for item in value):
        value = tuple(value)
    if type(value) is not wanted:
        names = {
            int: "a whole number",
            float: "a number",
            str: "a text in quotes",
            tuple: "a list of texts in quotes",
        }
        raise UserError(f"{where} has to be {names[wanted]}, not {_short(value)}")
    limits = parameter.metadata
    if limits["choices"] and value not in limits["choices"]:
        choices = ", ".join(limits["choices"])
        raise UserError(f"{where} has to be one of {choices}, not {_short(value)}")
    if wanted in (int, float) and not limits["low"] <= value <= limits["high"]:
        raise UserError(
            f"{where} has to lie between {limits['low']} and {limits['high']}, not {_short(value)}"
        )
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def nearest(word: str, known: Any) -> str:
    """A question after the known word that is most like another one."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)
    return f", did you mean {near[0]}?" if near else ""
