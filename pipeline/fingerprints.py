"""Fingerprints of code: the modules that a stage consists of, and whether they still say the same.

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
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from pipeline.errors import UserError

PACKAGE = "pipeline"
# What loads code, reads its own text, or makes a value of a message.
UNSEEN = """
    __import__ __loader__ __spec__ __builtins__ builtins exec eval globals runpy pkgutil zipimport
    __file__ __path__ __doc__ __annotations__ __dataclass_fields__ dataclasses.fields co_filename
    get_type_hints get_annotations inspect linecache singledispatch singledispatchmethod
    importlib.util importlib.resources importlib.machinery importlib.reload SourceFileLoader
    sys.path sys.meta_path sys.path_hooks site.addsitedir _frozen_importlib _bootstrap
    pickle timeit pydoc doctest codeop logging.config redirect_stdout redirect_stderr
"""
NAMED = re.compile(rf"\b{PACKAGE}(?:\.\w+)+")  # a module's name in a text
# Functions that only look: a message may gain or lose a call of one.
LOOKING = "len str repr int float round min max sum sorted set list tuple type abs map isinstance"
# Annotations with which a dataclass makes something else than a field.
MARKERS = ("ClassVar", "InitVar", "KW_ONLY")
VERSION = f"{sys.version} {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}"
ACTIONS = ast.Call | ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom


def fingerprints(modules: Iterable[str], root: Path) -> dict[str, str]:
    """Return the SHA-256 of the shape of each module that some modules consist of, by its place.

        fingerprints(["pipeline.split"], root)  # {"errors.py": "0c1…", "split.py": "9ab…", …}

    A module that this process has imported counts as it was then. Raises UserError if a file is
    not valid Python, or does something that cannot be followed.
    """
    paths = closure(modules, root).values()
    digests = {path.relative_to(root / PACKAGE).as_posix(): _read(path, root)[0] for path in paths}
    return dict(sorted(digests.items()))


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
            waiting += _read(there[name], root)[1]
        if "." in name:  # Python executes the packages around a module
            waiting.append(name.rpartition(".")[0])
    return found


@functools.cache
def _modules(root: Path) -> dict[str, Path]:
    """Find the file of each module of the package, by the module's name."""
    found: dict[str, Path] = {}
    # As Python does it, rather x/__init__.py than a compiled x.so, and that than x.py.
    files = (root / PACKAGE).rglob("*.*")
    for path in sorted(files, key=lambda path: (path.stem == "__init__", path.suffix)):
        if path.suffix in (".py", ".pyd", ".so"):
            words = str(path.relative_to(root)).partition(".")[0].split("/")
            found[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    return found


_remembered: dict[str, list[Any]] = {}  # digests and imports, kept between commands


def remember(cache: dict[str, list[Any]]) -> None:
    """Keep in a cache what is read from now on, and take from it what has not changed."""
    global _remembered
    _remembered = cache


@functools.cache
def _read(path: Path, root: Path) -> tuple[str, list[str]]:
    """Return the digest of a module's shape, and the names of what it imports."""
    content = _loaded.get(path) or path.read_bytes()
    beside = sorted(each.name for each in root.iterdir())
    digest = hashlib.sha256(f"{VERSION} {beside}".encode() + content).hexdigest()
    known = _remembered.get(str(path), [])
    if len(known) != 3 or known[0] != digest:
        module = _Module(path, content, root)
        known = _remembered[str(path)] = [digest, module.digest, sorted(module.imports)]
    return known[1], known[2]


def forget() -> None:
    """Read every file again the next time: code has been edited."""
    _modules.cache_clear()
    _read.cache_clear()


# --- one module ----------------------------------------------------------------------------------


class _Module:
    """The digest of a module's shape, and the names of what it imports from this package."""

    def __init__(self, path: Path, content: bytes, root: Path) -> None:
        self.imports: set[str] = set()
        self.digest = hashlib.sha256(content).hexdigest()
        if path.suffix != ".py":  # a compiled module
            return
        self._root, self._place = root, path.relative_to(root)
        try:
            tree = ast.parse(content)
        except SyntaxError as error:
            raise UserError(f"{self._place}, line {error.lineno}: {error.msg}") from error
        bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not _is_read(n)}
        self._names: dict[str, str] = {}  # what a name that an import binds refers to
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._names |= self._bound_by(node)
        if "TYPE_CHECKING" not in bound:
            tree.body = [each for each in tree.body if not self._for_types(each)]
        nodes = list(ast.walk(tree))
        parts = {node.value for node in nodes if isinstance(node, ast.Attribute)}
        plain = {part for node in nodes if (part := _plain_part(node))}
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._note_import(node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self._note_text(node, node.value)
            elif isinstance(node, ast.Name | ast.Attribute):
                self._note_name(node, node in plain, node not in parts)
        self.imports = {name for name in self.imports if name.startswith(PACKAGE)}
        shape = _Shape(nodes, bound, self._names).of(tree)
        self.digest = hashlib.sha256(repr(shape).encode()).hexdigest()

    def _bound_by(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
        """Yield the names that an import binds, each with the full name of what it refers to."""
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                yield alias.asname or alias.name, f"{self._base(node)}.{alias.name}"
            else:
                top = alias.name.partition(".")[0]
                yield alias.asname or top, alias.name if alias.asname else top

    def _base(self, node: ast.ImportFrom) -> str:
        """Return the full name of the package or module that `from … import` imports from."""
        package = self._place.with_suffix("").parts[: -node.level] if node.level else ()
        return ".".join([*package, *filter(None, [node.module])])

    def _note_import(self, node: ast.Import | ast.ImportFrom) -> None:
        own = {alias.name for alias in node.names}
        names = own
        if isinstance(node, ast.ImportFrom):
            base = self._base(node)
            names = {base, *(f"{base}.{name}" for name in own)}
            if "*" in own:  # may import what the package's __all__ names
                self.imports.add(f"{base}:")
        self.imports |= names
        tops = {name.partition(".")[0] for name in names}
        hidden = (own | names | tops) & set(UNSEEN.split())
        for top in tops - {PACKAGE}:
            if (self._root / top).is_dir() or (self._root / f"{top}.py").exists():
                hidden.add(f"{top}, beside the package,")
        if hidden:
            raise self._unseen(node, hidden.pop())

    def _note_text(self, node: ast.Constant, text: str) -> None:
        """Note what a text may name: for import_module, `python -m`, sys.modules, getattr."""
        self.imports |= set(NAMED.findall(text))
        file = text.startswith(f"{PACKAGE}/") and (self._root / text).exists()
        if file or text in UNSEEN.split():
            raise self._unseen(node, text)

    def _note_name(self, node: ast.Name | ast.Attribute, plain: bool, whole: bool) -> None:
        """Note what a name may refer to; raise UserError if that cannot be told."""
        words: list[str] = []
        part: ast.expr = node
        while isinstance(part, ast.Attribute):
            words.insert(0, part.attr)
            part = part.value
        if isinstance(part, ast.Name):
            words.insert(0, self._names.get(part.id, part.id))
            if whole and part is node and part.id in self._names:
                self.imports.add(f"{words[0]}:")  # getattr(package, …)
        name = ".".join(words)
        self.imports.add(name)
        last = name.rpartition(".")[2]
        if {name, last} & set(UNSEEN.split()):
            raise self._unseen(node, name)
        if (last == "import_module" or name in ("importlib", "sys.modules")) and not plain:
            raise self._unseen(node, f"{name} with a computed name")
        if name in ("sys.stdout", "sys.stderr", "__package__") and not _is_read(node):
            raise self._unseen(node, f"another {name}")

    def _for_types(self, node: ast.stmt) -> bool:
        """Check for imports that only a type checker executes."""
        return (
            isinstance(node, ast.If)
            and ast.unparse(node.test) == "TYPE_CHECKING"
            and self._names.get("TYPE_CHECKING") == "typing.TYPE_CHECKING"
            and not node.orelse
            and all(isinstance(each, ast.Import | ast.ImportFrom) for each in node.body)
        )

    def _unseen(self, node: ast.expr | ast.stmt, what: str) -> UserError:
        return UserError(
            f"{self._place}, line {node.lineno}: {what} cannot be followed, so a change of what it "
            f"brings would go unnoticed; have code in {PACKAGE}/ and import it by its name, and "
            "declare a file among what the stage reads"
        )


def _plain_part(node: ast.AST) -> ast.AST | None:
    """Return the part of a node that names what it loads: f of f("x"), m of m["x"], m.keys()."""
    match node:
        case ast.Call(args=[ast.Constant(value=str(name)), *_]) if name[:1] != ".":
            return node.func
        case ast.Subscript(slice=ast.Constant()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
            return node.value
        case ast.Attribute(attr="keys" | "update" | "import_module"):
            return node.value
    return None


def _is_read(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Load)


# --- what counts of a syntax tree ----------------------------------------------------------------


class _Shape:
    """Turns syntax trees into nested lists, without what changes no result."""

    def __init__(self, nodes: Sequence[ast.AST], bound: set[str], names: Mapping[str, str]) -> None:
        self._names = names
        own = {str(getattr(n, "name", getattr(n, "arg", ""))) for n in nodes} | bound | set(names)
        # The names of functions that still are Python's own, whatever `from x import *` binds.
        self._builtins = {"print", *LOOKING.split()} - own if "*" not in own else set()

    def of(self, node: Any) -> Any:
        """Turn a node, or a list of nodes, into lists; empty fields are left out."""
        if isinstance(node, list):
            return [self.of(each) for each in node if not _does_nothing(each)]
        if not isinstance(node, ast.AST):
            return [hex(node)] if type(node) is int else node  # Python refuses to write long ones
        kind = "Assign" if isinstance(node, ast.AnnAssign) else type(node).__name__
        fields = dict(ast.iter_fields(node)) | self._heard(node)
        for name in ("ctx", "type_comment", "kind", "simple"):  # follow from the node's place
            fields.pop(name, None)
        kept = [[name, self.of(fields[name])] for name in sorted(fields)]
        return [kind, *(each for each in kept if each[1] not in (None, []))]

    def _heard(self, node: ast.AST) -> dict[str, Any]:
        """Return what counts of the fields that are otherwise only meant for a reader."""
        match node:
            case ast.Raise(exc=ast.Call() as call):
                return {"exc": [call.func, *self._carried(_parts(call))]}
            case ast.Assert(msg=ast.expr() as text):
                return {"msg": self._carried([text])}
            case ast.Call() if self._only_speaks(node):
                return {"args": self._actions(_parts(node)), "keywords": []}
            case ast.AnnAssign(target=target, annotation=said):
                return {"target": None, "targets": [target], "annotation": self._actions([said])}
            case ast.arg(annotation=ast.expr() as said):
                return {"annotation": self._actions([said])}
            case ast.FunctionDef() | ast.AsyncFunctionDef() if node.returns:
                return {"returns": self._actions([node.returns])}
            case ast.ClassDef(body=body):  # a dataclass makes fields of what is annotated
                return {"fields": [self._field(e) for e in body if isinstance(e, ast.AnnAssign)]}
        return {}

    def _only_speaks(self, call: ast.Call) -> bool:
        match call.func:
            case ast.Attribute(value=ast.Name(id=name), attr="warn"):
                return self._names.get(name) == "warnings" and len(_parts(call)) == 1
            case ast.Name(id="print") if "print" in self._builtins:
                files = {ast.unparse(k.value) for k in call.keywords if k.arg in ("file", None)}
                return files <= {"sys.stdout", "sys.stderr"}
        return False

    def _carried(self, parts: Sequence[ast.AST]) -> list[ast.AST]:
        """Keep of an argument with text what it does, and all of any other: it may be caught."""
        spoken = [any(map(_is_text, ast.walk(part))) for part in parts]
        kept = [self._actions([p]) if text else [p] for p, text in zip(parts, spoken, strict=True)]
        return [each for group in kept for each in group]

    def _actions(self, nodes: Iterable[ast.AST]) -> list[ast.AST]:
        """List the calls and the like in some expressions, except those that only look."""
        found: list[ast.AST] = []
        for node in nodes:
            match node:
                case ast.Call(func=ast.Name(id=name)) if name in self._builtins - {"print"}:
                    looks = True
                case ast.Call(func=ast.Attribute(value=text)):
                    looks = _is_text(text)
                case _:
                    looks = not isinstance(node, ACTIONS)
            found += self._actions(ast.iter_child_nodes(node)) if looks else [node]
        return found

    def _field(self, node: ast.AnnAssign) -> list[str]:
        words = [ast.unparse(node.annotation)]
        words += [self._names.get(getattr(n, "id", ""), "") for n in ast.walk(node.annotation)]
        marks = [mark for mark in MARKERS if any(mark in word for word in words)]
        return [ast.unparse(node.target), *marks]


def _parts(call: ast.Call) -> list[ast.AST]:
    return [*call.args, *call.keywords]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


def _does_nothing(node: Any) -> bool:
    """Check for `pass`, a docstring or another constant alone, and an annotation without value."""
    match node:
        case ast.Pass() | ast.Expr(value=ast.Constant()) | ast.AnnAssign(value=None):
            return True
    return False


# --- what runs -----------------------------------------------------------------------------------

_loaded: dict[Path, bytes] = {}  # the texts of the modules that this process runs


def load(modules: Iterable[str], root: Path) -> None:
    """Import some modules and all that they import.

    From then on `fingerprints` tells what this process runs, whatever is edited meanwhile.
    """
    if Path(sys.modules[PACKAGE].__path__[0]).samefile(root / PACKAGE):  # not so in tests
        for name, module in sys.modules.items():
            if f"{name}.".startswith(f"{PACKAGE}.") and module.__file__:
                path = Path(module.__file__)
                _loaded.setdefault(path, path.read_bytes())
        if _Finder not in sys.meta_path:
            sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
        for name in closure(modules, root):
            with contextlib.suppress(ImportError):  # what the stage can do without
                importlib.import_module(name)
        forget()


class _Finder(PathFinder):
    """Finds this package's modules, to be compiled from bytes that are noted.

    Python's own cache of compiled modules takes two edits within a second for the same.
    """

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        spec = super().find_spec(name, path, target) if name.startswith(f"{PACKAGE}.") else None
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        content = _loaded[Path(self.path)] = self.get_data(self.path)
        return self.source_to_code(content, self.path)
