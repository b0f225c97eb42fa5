"""Tasks: a stage for one dataset and preset, and in training for one fold.

Standard library only: every command imports this module.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline import fingerprints
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import Preset

# The files behind one name: a file; or one for every fold, by preset; or some of the user's own.
Files = Path | Mapping[str, Path | list[Path]]
# Where stages are declared; to be named where a function does not fit its declaration.
DECLARED = "pipeline/stages.py"
# From the paths to write to, by name, to metadata for the manifest.
Work = Callable[[Mapping[str, Path]], Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """One run of one stage: what it reads and writes, by name, and what else it depends on."""

    name: str  # what the user calls it, "train fold 2"
    stage: str  # the stage's name, "train"
    root: Path  # the project's folder; the paths in the manifest are relative to it
    manifest: Path  # the JSON file that is written last and completes the task
    function: str  # the stage's function, "pipeline.split:split" (see `work`)
    preset: "Preset"  # in training, the member of the ensemble
    fold: int  # 0 in a stage that does not run per fold
    writes: Mapping[str, Path]  # all in the manifest's folder
    reads: Mapping[str, Files] = field(default_factory=dict)
    # The stage's own parameters: JSON values, or dataclasses of them.
    params: Mapping[str, Any] = field(default_factory=dict)
    # By the function's arguments, the names of modules that a parameter chooses.
    modules: Mapping[str, str] = field(default_factory=dict)
    ages: bool = True  # whether a change of its code makes it stale

    @property
    def folder(self) -> Path:
        """The folder that the task's files are in."""
        return self.manifest.parent

    @property
    def staging(self) -> Path:
        """The folder in which the files are written; it survives a kill, so that work resumes."""
        return self.folder / f".{self.manifest.stem}.partial"

    @property
    def inputs(self) -> list[Path]:
        """Every file that the task reads."""
        return [path for group in self.reads.values() for path in _flat(group)]

    @property
    def code(self) -> list[str]:
        """The names of the modules whose code, with what they import, the task executes."""
        return [self.function.partition(":")[0], *self.modules.values()]

    def staged(self) -> dict[str, Path]:
        """Return the paths that the task writes to, by name, in its staging folder."""
        return {name: self.staging / path.name for name, path in self.writes.items()}

    def label(self, path: Path) -> str:
        """Return the name by which a manifest calls a file: relative to the project if it can."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else path.name

    def names(self) -> dict[str, Any]:
        """Return the names under which the task reads and writes its files."""

        def labels(group: Any) -> Any:
            if isinstance(group, Mapping):
                return {name: labels(each) for name, each in group.items()}
            return [self.label(p) for p in group] if isinstance(group, list) else self.label(group)

        return {"reads": labels(self.reads), "writes": labels(self.writes)}

    def values(self, defaults: bool = False) -> dict[str, Any]:
        """Return the parameters by their names in the manifest, such as "train.epochs".

        What has no effect counts as at its default. With `defaults`, return the defaults of those
        that have one.
        """
        values: dict[str, Any] = {}
        for name, value in self.params.items():
            if is_dataclass(value):
                its: Any = type(value)() if defaults else getattr(value, "used", value)  # type: ignore[misc]
                table = type(value).__name__.lower()
                values |= {f"{table}.{key}": each for key, each in asdict(its).items()}
            elif not defaults:
                values[name] = value
        return dict(json.loads(json.dumps(values)))

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint the task's code, by file (see `fingerprints.fingerprints`)."""
        return fingerprints.fingerprints(self.code, self.root) if self.ages else {}

    def work(self, writes: Mapping[str, Path], **more: Any) -> Mapping[str, Any]:
        """Call the function with `reads`, `params`, `modules` and paths to write to, by name.

        Raises UserError if there is no such function, or if it does not do what is declared.
        """
        module, _, name = self.function.partition(":")
        function = getattr(self._module(module), name, None)
        if function is None:
            raise self._fault(f"{module} has no function {name!r}")
        chosen = {key: self._module(each) for key, each in self.modules.items()}
        try:
            metadata = function(**self.reads, **writes, **self.params, **chosen, **more)
        except TypeError as error:
            if error.__traceback__ and error.__traceback__.tb_next:  # within the function
                raise
            needed = "its arguments are what the stage reads and writes, its params and modules"
            raise self._fault(f"{error}; {needed}") from error
        if not isinstance(metadata, Mapping):
            kind = type(metadata).__name__
            raise self._fault(f"{name}() must return a dict for the manifest, not {kind}")
        try:
            json.dumps(dict(metadata))
        except TypeError as error:
            raise self._fault(f"{name}() must return what fits into JSON: {error}") from error
        if missing := [path.name for path in writes.values() if not path.exists()]:
            raise self._fault(
                f"{name}() did not write {missing[0]}; write it, or do not declare it"
            )
        return metadata

    def _module(self, name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if f"{name}.".startswith(f"{error.name}."):
                raise self._fault(f"there is no module {name}") from error
            raise

    def _fault(self, what: str) -> UserError:
        return UserError(f"{DECLARED}, stage {self.stage}: {what}")


def _flat(group: Files | list[Path]) -> list[Path]:
    if isinstance(group, Mapping):
        return [path for each in group.values() for path in _flat(each)]
    return [group] if isinstance(group, Path) else group
