"""Fingerprints of code: what a stage's function is made of, derived from its imports.

Starting from one definition, such as `pipeline.split:split`, this follows the names that it uses
to other definitions of its module and, through the imports, of other modules. Comments, layout and
docstrings do not count, and neither does code that the function never reaches.

Standard library only: every `digits STAGE` asks whether its code has changed.
"""

import ast
import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

# Modules whose code is not part of a result, and why a change in them makes nothing stale.
NEUTRAL = {
    "pipeline.artifacts": "puts files in place; their bytes are those that the stage wrote",
    "pipeline.backend": "imports Keras",
    "pipeline.config": "its values reach a stage as parameters, which are recorded one by one",
    "pipeline.errors": "defines two exceptions",
    "pipeline.kaggle.client": "moves the competition's files without changing a byte",
    "pipeline.train.devices": "decides where a fold runs, which changes none of its numbers",
    "pipeline.train.progress": "shows how far training has come",
    "pipeline.train.tensorboard": "shows the same in TensorBoard",
}
# Names of what a module defines: all of it; the statements that bind no name.
EVERYTHING, ON_IMPORT = "*", ""


def fingerprints(entries: Iterable[str], root: Path) -> dict[str, str]:
    """Fingerprint the code that some definitions consist of.

    Args:
        entries: definitions, as "pipeline.split:split"; or files below the package in another
            language, as "report/page.html", of which every byte counts.
        root: the project's folder, which contains `pipeline/`.

    Returns:
        SHA-256 in hexadecimal of the code used of each file, by the file's path below `pipeline/`.

    Raises:
        UserError: a file is not valid Python, or has no such definition.
    """
    return dict(_fingerprints(tuple(entries), root))


@functools.cache  # every fold asks; and code that is edited later is not what this process runs
def _fingerprints(entries: tuple[str, ...], root: Path) -> tuple[tuple[str, str], ...]:
    found = {
        entry: hashlib.sha256((root / "pipeline" / entry).read_bytes()).hexdigest()
        for entry in entries
        if ":" not in entry
    }
    used: dict[str, set[str]] = defaultdict(set)
    waiting = [tuple(entry.split(":")) for entry in entries if ":" in entry]
    while waiting:
        module, name = waiting.pop()
        if module not in NEUTRAL and name not in used[module]:
            used[module].add(name)
            waiting += _parse(module, root).uses(name)
    for module, names in used.items():
        parsed = _parse(module, root)
        kept = {(s.lineno, s.col_offset): s for n in names for s in parsed.statements.get(n, ())}
        if kept:
            shapes = repr([_shape(kept[place]) for place in sorted(kept)])
            digest = hashlib.sha256(shapes.encode()).hexdigest()
            found[str(parsed.path.relative_to("pipeline"))] = digest
    return tuple(sorted(found.items()))


class _Module:
    """The syntax tree of one module, and what its names refer to."""

    def __init__(self, name: str, path: Path, tree: ast.Module, root: Path) -> None:
        self.name, self.path, self.root = name, path, root
        # By name, the statements that bind it; under ON_IMPORT, those that bind none but run.
        self.statements: dict[str, list[ast.stmt]] = defaultdict(list)
        # By name, what it refers to in this package: (module, definition), or (module, "").
        self.imports: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for statement in tree.body:
            passive = isinstance(statement, ast.Import | ast.ImportFrom) or (
                isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            )
            for each in _bound(statement) or ({ON_IMPORT} if not passive else ()):
                self.statements[each].append(statement)
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for node in ast.walk(statement):
                    self._note_import(node)

    def _note_import(self, node: ast.AST) -> None:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = _path(inner, self.root) is not None
                target = (inner, "") if is_module else (str(node.module), alias.name)
                self.imports[alias.asname or alias.name].add(target)

    def uses(self, name: str) -> Iterator[tuple[str, str]]:
        """The definitions that a definition uses itself, as (module, definition)."""
        if name == EVERYTHING:
            yield from ((self.name, each) for each in self.statements)
            return
        if name not in self.statements and name not in self.imports and name != ON_IMPORT:
            raise UserError(f"{self.path} defines no {name!r}")
        yield self.name, ON_IMPORT
        if name in self.imports:  # imported here, to be imported from here
            yield from self.imports[name]
        names, attributes = set(), defaultdict(set)
        for node in (n for statement in self.statements[name] for n in ast.walk(statement)):
            if isinstance(node, ast.Name):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                attributes[node.value.id].add(node.attr)
            else:
                self._note_import(node)
        for used in names:
            if used in self.statements:
                yield self.name, used
            for target, definition in self.imports.get(used, ()):
                if definition:
                    yield target, definition
                else:  # `from pipeline import csvs`, then csvs.read_labels
                    yield from ((target, each) for each in attributes[used] or {EVERYTHING})


@functools.cache
def _parse(module: str, root: Path) -> _Module:
    path = _path(module, root)
    assert path is not None, module
    place = path.relative_to(root)
    try:
        return _Module(module, place, ast.parse(path.read_text(encoding="utf-8")), root)
    except SyntaxError as error:
        raise UserError(f"{place}, line {error.lineno}: {error.msg}") from error


def _path(module: str, root: Path) -> Path | None:
    """The source file of a module of this package; None if there is no such module."""
    place = root.joinpath(*module.split("."))
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module binds; those of this package's imports aside."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("pipeline"):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def _shape(node: Any) -> Any:
    """The tree as nested lists. Empty fields are left out: Python's versions differ in them."""
    if isinstance(node, list):
        return [_shape(each) for each in node]
    if not isinstance(node, ast.AST):
        return node
    shape: list[Any] = [type(node).__name__]
    for name in node._fields:
        value: Any = getattr(node, name, None)
        if (
            name == "body"
            and isinstance(node, _DOCUMENTED)
            and ast.get_docstring(node, False) is not None
        ):
            value = value[1:]
        if (
            value not in (None, []) and name != "ctx"
        ):  # whether a name is read follows from its place
            shape += [name, _shape(value)]
    return shape


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
