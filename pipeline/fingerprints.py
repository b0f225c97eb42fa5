"""Fingerprints of code: which modules a stage consists of, and whether they still say the same.

A stage's code is its module and every module of this package that it imports, in whatever style,
and so on. Modules are compared as syntax trees, without comments, docstrings, annotations and the
texts inside `raise`, `assert`, `print` and `warnings.warn`. What cannot be followed is refused.

Standard library only: every `digits STAGE` asks whether its code has changed.
"""

import ast
import contextlib
import functools
import hashlib
import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.util import cache_from_source
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from pipeline.errors import UserError

PACKAGE = "pipeline"
SUFFIXES = ("/__init__.py", *EXTENSION_SUFFIXES, ".py", ".pyc")  # in Python's order
# What loads code, or reads its own text, so that what it brings is not seen here.
UNSEEN = {
    *("__import__", "__loader__", "__spec__", "__builtins__", "exec", "eval", "runpy", "pkgutil"),
    *("__file__", "__path__", "__doc__", "__annotations__", "get_type_hints", "get_annotations"),
    *("inspect", "linecache", "builtins", "zipimport", "singledispatch", "singledispatchmethod"),
    *("importlib.util", "importlib.resources", "importlib.machinery", "importlib.reload"),
    *("sys.path", "sys.meta_path", "sys.path_hooks", "site.addsitedir", "SourceFileLoader"),
    *("_frozen_importlib", "_bootstrap", "pickle", "timeit", "pydoc", "doctest", "codeop"),
    *("__dataclass_fields__", "dataclasses.fields", "logging.config", "co_filename", "globals"),
    # With which a message becomes a value.
    *("redirect_stdout", "redirect_stderr"),
}
NAMED = re.compile(rf"\b{PACKAGE}(?:\.\w+)+")  # a module's name in a text
# Functions that only look: a message may gain or lose a call of one.
LOOKING = {
    *("len", "str", "repr", "int", "float", "round", "min", "max", "sum", "sorted", "set", "list"),
    *("tuple", "type", "abs", "map", "isinstance"),
}
# Annotations with which a dataclass makes something else than a field.
MARKERS = ("ClassVar", "InitVar", "KW_ONLY")
ACTIONS = (ast.Call, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)


def fingerprints(modules: Iterable[str], root: Path) -> dict[str, str]:
    """Fingerprint the code that some modules consist of.

        fingerprints(["pipeline.split"], root)  # {"errors.py": "0c1…", "split.py": "9ab…", …}

    Args:
        modules: their names.
        root: the project's folder, which contains `pipeline/`.

    Returns:
        SHA-256 of each module's shape, in hexadecimal, by the file's path below `pipeline/`; for a
        module that `load` has loaded, of the code that this process runs.

    Raises:
        UserError: a file is not valid Python, or does something that cannot be followed.
    """
    return dict(_fingerprints(tuple(modules), root))


@functools.cache  # every fold asks
def _fingerprints(modules: tuple[str, ...], root: Path) -> tuple[tuple[str, str], ...]:
    paths = closure(modules, root).values()
    places = {path.relative_to(root / PACKAGE).as_posix(): _read(path, root) for path in paths}
    return tuple(sorted((place, module.digest) for place, module in places.items()))


def closure(modules: Iterable[str], root: Path) -> dict[str, Path]:
    """Find the files of some modules and of all that they import, by the modules' names."""
    there, found = _modules(root), dict[str, Path]()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name.endswith(":"):  # a package, of which any module may be used
            waiting += [each for each in there if each.startswith(f"{name[:-1]}.")]
        if name in there and name not in found:
            found[name] = there[name]
            waiting += _read(there[name], root).imports
        if "." in name:  # Python executes the packages around a module
            waiting.append(name.rpartition(".")[0])
    return found


@functools.cache
def _modules(root: Path) -> dict[str, Path]:
    """Find the file of each module of the package, by the module's name."""
    found: dict[str, Path] = {}
    for suffix in reversed(SUFFIXES):
        for path in (root / PACKAGE).rglob(f"*{suffix.rpartition('/')[2]}"):
            words = str(path.relative_to(root)).removesuffix(suffix).split("/")
            if "__pycache__" not in words and "." not in words[-1]:
                found[".".join(words)] = path
    return found


def forget() -> None:
    """Read every file again the next time: code has been edited."""
    for cached in (_fingerprints, _modules, _read, _beside):
        cached.cache_clear()


# --- one module ----------------------------------------------------------------------------------


class _Module:
    """The digest of a module's shape, and the names of what it imports, modules or not."""

    def __init__(self, path: Path, content: bytes, root: Path) -> None:
        self.imports: set[str] = set()
        self.outside: set[str] = set()  # what it imports that is not of this package
        self.digest = hashlib.sha256(content).hexdigest()
        self._root, self._place = root, path.relative_to(root)
        if path.suffix != ".py":  # a compiled module
            return
        try:
            tree = ast.parse(content)
        except SyntaxError as error:
            raise UserError(f"{self._place}, line {error.lineno}: {error.msg}") from error
        nodes = list(_executed(tree))
        self._names: dict[str, str] = {}  # what a name that an import binds refers to
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._note_import(node)
        plain = {part for node in nodes if (part := _plain_part(node))}
        roots = {node.value for node in nodes if isinstance(node, ast.Attribute)}
        for node in nodes:
            if isinstance(node, ast.Name) and node.id in self._names and node not in roots:
                self._import_all_below(self._names[node.id])  # getattr(package, …)
        for node in nodes:
            self._note(node, node in plain)
        shape = _Shape(nodes, self._names).of(tree)
        self.digest = hashlib.sha256(repr(shape).encode()).hexdigest()
        self.imports = {name for name in self.imports if name.startswith(PACKAGE)}

    def _note_import(self, node: ast.Import | ast.ImportFrom) -> None:
        base = ""
        if isinstance(node, ast.ImportFrom):
            base = self._absolute("." * node.level + (node.module or ""))
            self.imports.add(base)
        for alias in node.names:
            name = f"{base}.{alias.name}".lstrip(".")
            self._names[alias.asname or alias.name.partition(".")[0]] = (
                name if alias.asname or base else name.partition(".")[0]
            )
            self.imports.add(name)
            if alias.name == "*":  # may import what the package's __all__ names
                self._import_all_below(base)
            for hidden in {name, name.partition(".")[0], base, alias.name} & UNSEEN:
                raise self._unseen(node, hidden)
            top = name.partition(".")[0]
            self.outside |= {top} - {PACKAGE}
            if top != PACKAGE and _beside(top, self._root):
                raise UserError(
                    f"{self._place}, line {node.lineno}: {top} is beside the package, where a "
                    f"change of it would go unnoticed; move it into {PACKAGE}/"
                )

    def _import_all_below(self, package: str) -> None:
        self.imports.add(f"{package}:")

    def _note(self, node: ast.AST, plain: bool) -> None:
        """Note what a node may import; raise UserError if that cannot be told."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            word = node.value  # for import_module, `python -m`, sys.modules, getattr, …
            self.imports |= {
                self._absolute(word) if word[:1] == "." else word,
                *NAMED.findall(word),
            }
            file = word.startswith(PACKAGE) and "." not in word.partition("/")[0]
            if word in UNSEEN or (file and (self._root / word).exists()):
                raise self._unseen(node, word)
        elif isinstance(node, ast.Name | ast.Attribute):
            name = self._dotted(node)
            self.imports.add(name)
            last = name.rpartition(".")[2]
            if {name, last} & UNSEEN:
                raise self._unseen(node, name)
            if (last == "import_module" or name in ("importlib", "sys.modules")) and not plain:
                raise self._unseen(node, f"{name} with a computed name")
            if name in ("sys.stdout", "sys.stderr", "__package__") and not _is_read(node):
                raise self._unseen(node, f"another {name}")

    def _dotted(self, node: ast.AST) -> str:
        """Spell a name or attribute in full: "h.f" after `import pipeline.h as h`."""
        words: list[str] = []
        while isinstance(node, ast.Attribute):
            words.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return words[0]
        return ".".join([self._names.get(node.id, node.id), *reversed(words)])

    def _absolute(self, name: str) -> str:
        """Turn ".x", as this module writes it, into "pipeline.x"."""
        level = len(name) - len(name.lstrip("."))
        if not level:
            return name
        package = self._place.with_suffix("").parts[:-level]
        return ".".join([*package, *filter(None, [name.lstrip(".")])])

    def _unseen(self, node: ast.expr | ast.stmt, what: str) -> UserError:
        return UserError(
            f"{self._place}, line {node.lineno}: {what} cannot be followed, so a change of what it "
            "brings would go unnoticed; import a module by its name, and declare a file among "
            "what the stage reads"
        )


class _Known(NamedTuple):
    """What a module came to, as it is remembered between commands."""

    key: str  # of its text, and of this module's
    digest: str
    imports: list[str]
    outside: list[str]


_remembered: dict[str, list[Any]] = {}


def remember(cache: dict[str, list[Any]]) -> None:
    """Keep in a cache what is read from now on, and take from it what has not changed."""
    global _remembered
    _remembered = cache


@functools.cache
def _read(path: Path, root: Path) -> _Known:
    content = _loaded.get(path) or path.read_bytes()
    key = hashlib.sha256(content + _version()).hexdigest()
    found = _remembered.get(str(path), [])
    if len(found) == 4 and found[0] == key and not any(_beside(top, root) for top in found[3]):
        return _Known(*found)
    module = _Module(path, content, root)
    known = _Known(key, module.digest, sorted(module.imports), sorted(module.outside))
    _remembered[str(path)] = list(known)
    return known


@functools.cache
def _version() -> bytes:
    return sys.version.encode() + Path(__file__).read_bytes()


@functools.cache
def _beside(name: str, root: Path) -> bool:
    return (root / f"{name}.py").is_file() or any((root / name).glob("*.py"))


def _plain_part(node: ast.AST) -> ast.AST | None:
    """Return the part of a node that names what it loads: f of f("x"), m of m["x"], m.keys()."""
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        relative = str(node.args[0].value).startswith(".")
        here = relative and [ast.unparse(each) for each in node.args[1:]] == ["__package__"]
        return node.func if here or not relative else None
    if isinstance(node, ast.Subscript):
        own = isinstance(node.slice, ast.Name) and node.slice.id == "__name__"
        known = own or isinstance(node.slice, ast.Constant)
        return node.value if known or not isinstance(node.ctx, ast.Load) else None
    if isinstance(node, ast.Attribute) and node.attr in ("keys", "update", "import_module"):
        return node.value
    return None


def _is_read(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Load)


def _executed(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield all nodes, after removing the imports that only a type checker executes."""
    body = tree.body
    known = [
        each
        for each in body
        if isinstance(each, ast.ImportFrom) and each.module == "typing" and not each.level
        if any(alias.name == "TYPE_CHECKING" and not alias.asname for alias in each.names)
    ]
    bound = any(
        (getattr(node, "id", "") == "TYPE_CHECKING" and not _is_read(node))
        or "TYPE_CHECKING" in (getattr(node, "arg", ""), getattr(node, "asname", ""))
        for node in ast.walk(tree)
    )
    if known and not bound:
        tree.body = [each for each in body if not _for_types(each)]
    yield from ast.walk(tree)


def _for_types(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        and not node.orelse
        and all(isinstance(each, ast.Import | ast.ImportFrom) for each in node.body)
    )


# --- what counts of a syntax tree ----------------------------------------------------------------


class _Shape:
    """Turns syntax trees into nested lists, without what changes no result.

    Args:
        nodes: all nodes of the module, to see which names it gives another meaning.
        names: what those refer to that its imports bind.
    """

    def __init__(self, nodes: Sequence[ast.AST], names: Mapping[str, str]) -> None:
        self._names = names
        self._bound = {
            node.id for node in nodes if isinstance(node, ast.Name) and not _is_read(node)
        }
        self._bound |= {str(getattr(n, "name", getattr(n, "arg", ""))) for n in nodes} | set(names)

    def of(self, node: Any) -> Any:
        """Turn a node, or a list of nodes, into lists; empty fields are left out."""
        if isinstance(node, list):
            return [self.of(each) for each in node if not _does_nothing(each)]
        if not isinstance(node, ast.AST):
            return hex(node) if type(node) is int else node  # Python refuses to write long ones
        kind = ast.Assign if isinstance(node, ast.AnnAssign) and node.value else type(node)
        shape: list[Any] = [kind.__name__]
        said = self._said(node)
        if isinstance(node, ast.ClassDef):  # of which a dataclass makes fields
            shape += [
                [self.of(each.target), self._annotation(each.annotation)]
                for each in node.body
                if isinstance(each, ast.AnnAssign)
            ]
        for name in node._fields:
            value = getattr(node, name, None)
            if value in (None, []) or name in ("ctx", "type_comment", "kind", "simple"):
                continue  # whether a name is read or bound follows from its place
            if name in ("annotation", "returns"):
                value = self._annotation(value)
            elif name in said:
                value = said[name]
            elif name == "target" and kind is ast.Assign:
                name, value = "targets", [self.of(value)]
            else:
                value = self.of(value)
            if value != []:
                shape += [name, value]
        return shape

    def _said(self, node: ast.AST) -> dict[str, list[Any]]:
        """Return what counts of the fields in which text is only meant for a reader."""
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            call = node.exc
            return {"exc": [self.of(call.func), *self._carried([*call.args, *call.keywords])]}
        if isinstance(node, ast.Assert) and node.msg:
            return {"msg": self._carried([node.msg])}
        if isinstance(node, ast.Call) and self._only_speaks(node):
            parts = [*node.args, *node.keywords]
            return {"args": [each for p in parts for each in self._actions(p)], "keywords": []}
        return {}

    def _carried(self, values: Sequence[ast.AST]) -> list[Any]:
        """Keep of an argument with text what it does, and all of any other: it may be caught."""
        found: list[Any] = []
        for value in values:
            text = any(map(_is_text, ast.walk(value)))
            found += self._actions(value) if text else [self.of(value)]
        return found

    def _only_speaks(self, call: ast.Call) -> bool:
        if isinstance(call.func, ast.Attribute):
            root = call.func.value
            known = isinstance(root, ast.Name) and self._names.get(root.id) == "warnings"
            return known and call.func.attr == "warn" and len(call.args) + len(call.keywords) == 1
        files = {ast.unparse(k.value) for k in call.keywords if k.arg in ("file", None)}
        return self._is_builtin(call.func, {"print"}) and files <= {"sys.stdout", "sys.stderr"}

    def _annotation(self, node: ast.expr) -> list[Any]:
        """Keep of an annotation what it does when it is evaluated, and what makes it no field."""
        words = {
            ast.unparse(node),
            *(self._names.get(getattr(n, "id", ""), "") for n in ast.walk(node)),
        }
        marks = [mark for mark in MARKERS if any(mark in word for word in words)]
        return [*marks, *self._actions(node)]

    def _actions(self, node: ast.AST) -> list[Any]:
        """List the calls and the like in an expression, except those that only look."""
        only_looks = isinstance(node, ast.Call) and (
            self._is_builtin(node.func, LOOKING)
            or (isinstance(node.func, ast.Attribute) and _is_text(node.func.value))
        )
        if isinstance(node, ACTIONS) and not only_looks:
            return [self.of(node)]
        return [each for child in ast.iter_child_nodes(node) for each in self._actions(child)]

    def _is_builtin(self, node: ast.AST, names: set[str]) -> bool:
        unknown = "*" in self._bound  # `from x import *` may bind it
        return isinstance(node, ast.Name) and node.id in names - self._bound and not unknown


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _does_nothing(node: Any) -> bool:
    """Check for `pass`, a docstring or another constant alone, and an annotation without value."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.AnnAssign) and not node.value)


# --- what runs -----------------------------------------------------------------------------------

_loaded: dict[Path, bytes] = {}  # the texts of the modules that this process runs


def load(modules: Iterable[str], root: Path) -> None:
    """Import some modules and all that they import, and note what is imported.

    From then on `fingerprints` tells what this process runs, whatever is edited meanwhile.

    Raises:
        UserError: a module that was imported before has been edited since.
    """
    package = sys.modules[PACKAGE].__path__[0]
    if not Path(package).samefile(root / PACKAGE):  # in tests: the code of another folder
        return
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name, path in closure(modules, root).items():
        if name in sys.modules and path not in _loaded:
            _check_imported(path, root)
        with contextlib.suppress(ImportError):  # what the stage can do without
            importlib.import_module(name)
    forget()


class _Finder(PathFinder):
    """Finds this package's modules, to be compiled from the bytes that are noted."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = super().find_spec(name, path, target) if name.startswith(f"{PACKAGE}.") else None
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Compiles a module from its source, as Python's cache takes another edit for the same."""

    def get_code(self, fullname: str) -> CodeType:
        content = self.get_data(self.path)
        _loaded[Path(self.path)] = content
        return self.source_to_code(content, self.path)


def _check_imported(path: Path, root: Path) -> None:
    """Raise UserError if a module was imported with another text than its file has now."""
    cached, content = Path(cache_from_source(path)), path.read_bytes()
    _loaded[path] = content
    if path.suffix != ".py" or not cached.exists():
        return
    imported = SourcelessFileLoader(path.stem, str(cached)).get_code(path.stem)
    if imported != compile(content, path, "exec"):
        cached.unlink()
        raise UserError(f"{path.relative_to(root)} has just been edited; run the command again")
