"""fingerprints.py: a change of what a stage executes is seen, and one of what it says is not."""

import ast
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PACKAGE, run_digits

from pipeline import fingerprints, stages
from pipeline.errors import UserError
from pipeline.fingerprints import closure, forget

# Each form: the module m that a stage executes, and the modules it uses. K is edited.
H = "def f():\n    return K\n"
FOLLOWED = {
    "import": ("import pipeline.h", {"h": H}),
    "import in a function": ("def g():\n    import pipeline.h as x\n    return x.f()", {"h": H}),
    "from": ("from pipeline.h import f", {"h": H}),
    "from the package": ("from pipeline import h", {"h": H}),
    "from dot": ("from . import h", {"h": H}),
    "from two dots": ("from pipeline.s import n", {"s/n": "from ..h import f", "h": H}),
    "star": ("from pipeline.h import *", {"h": H}),
    "star of a package": ("from pipeline.s import *", {"s/__init__": "__all__ = ['h']", "s/h": H}),
    "import_module": ("import importlib\nx = importlib.import_module('pipeline.h')", {"h": H}),
    "getattr": ("from pipeline import h\nx = getattr(h, 'f')", {"h": H}),
    "getattr of the package": ("import pipeline\nx = getattr(pipeline, 'h')", {"h": H}),
    "attribute chain": (
        "import pipeline.a\nx = pipeline.h.f()",
        {"a": "import pipeline.h", "h": H},
    ),
    "sys.modules": ("import sys\nx = sys.modules['pipeline.h'].f()", {"h": H}),
    "subprocess": (
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pipeline.h'])",
        {"h": H},
    ),
    "try": ("try:\n    from pipeline.h import f\nexcept ImportError:\n    pass", {"h": H}),
    "else of TYPE_CHECKING": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    f = 0\nelse:\n"
        "    from pipeline.h import f",
        {"h": H},
    ),
    "package that patches": (
        "import pipeline.s.h",
        {"s/__init__": "import math\nmath.tau = K", "s/h": "x = 1"},
    ),
    "folder without __init__": ("from pipeline.s.h import f", {"s/h": H}),
    "module __getattr__": (
        "from pipeline.a import f",
        {"a": "def __getattr__(name):\n    from pipeline import h\n    return h.f", "h": H},
    ),
    "function in try": (
        "try:\n    X = 1\n    def f():\n        return K\nexcept ImportError:\n    f = 0",
        {},
    ),
    "registering decorator": ("T = []\n@T.append\ndef f():\n    return K", {}),
    "__init_subclass__": (
        "class B:\n    def __init_subclass__(cls):\n        B.k = cls\nclass S(B):\n    k = K",
        {},
    ),
    "default argument": ("def f(k=K):\n    return k", {}),
    "order of fields": (
        "import dataclasses\n@dataclasses.dataclass\nclass D:\n    ORDER",
        {},
    ),
    "ClassVar": (
        "import dataclasses, typing\n@dataclasses.dataclass\nclass D:\n    a: MARK",
        {},
    ),
    "annotation with a call": ("T = []\ndef f(x: T.append(K)):\n    pass", {}),
    "condition of an assertion": ("def f(x):\n    assert x < K, 'too large'", {}),
    "walrus in a message": ("def f():\n    print(f'{(k := K)} rows')\n    return k", {}),
    "call in a message": ("def f(rng):\n    print(f'{rng.random(K)} drawn')", {}),
    "value of an exception": (
        "class Found(Exception):\n    pass\ndef f():\n    raise Found(K)",
        {},
    ),
    "print that is another": ("def print(text):\n    T.append(text)\nT = []\nprint('K')", {}),
    "print to a file": ("def f(file):\n    print('K', file=file)", {}),
    "class of an error": ("def f():\n    raise ERROR('no')", {}),
    # Found by a tester who had not read fingerprints.py.
    "python -c": (
        "import sys\nx = [sys.executable, '-c', 'import pipeline.h as h; print(h.f())']",
        {"h": H},
    ),
    "own TYPE_CHECKING": (
        "TYPE_CHECKING = True\nif TYPE_CHECKING:\n    from .h import f",
        {"h": H},
    ),
    "TYPE_CHECKING that does more": (
        "from typing import TYPE_CHECKING\ndef f():\n    if TYPE_CHECKING:\n        yield K",
        {},
    ),
    "action on a text in a message": ("def f(x):\n    print(x.pop('K'))", {}),
    "walrus in an error": ("def f():\n    raise ValueError(y := 'K')", {}),
    "value that is awaited": ("async def f(g):\n    print(await g('K'))", {}),
    "warnings that are another": ("class warnings:\n    warn = str\nwarnings.warn('K')", {}),
    "ClassVar by another name": (
        "import dataclasses\nfrom typing import ClassVar as V\n@dataclasses.dataclass\nclass D:\n"
        "    a: ALIAS",
        {},
    ),
    "whole number of many digits": ("x = 0x" + "f" * 4000 + " + K", {}),
    "module that appears": (
        "try:\n    from pipeline.NEW import f\nexcept ImportError:\n    f = None",
        {"late": H},
    ),
}
EDITS = (("K", "1.0", "2.0"), ("ORDER", "a: int\n    b: int", "b: int\n    a: int"))
EDITS += (("ALIAS", "int = 1", "V[int] = 1"), ("NEW", "none", "late"))
EDITS += (("MARK", "int = 1", "typing.ClassVar[int] = 1"), ("ERROR", "KeyError", "ValueError"))
REFUSED = {
    "computed import": "import importlib\ndef f(n):\n    return importlib.import_module(n)",
    "computed import by another name": (
        "from importlib import import_module as i\nx = i('pipeline' + '.h')"
    ),
    "__import__": "x = __import__('pipeline.h')",
    "exec": "exec('import pipeline.h')",
    "eval": "x = eval('1')",
    "module beside the package": "import beside",
    "folder beside the package": "from folder import x",
    "docstring": "def f():\n    'K'\nx = f.__doc__",
    "annotations": "def f(x: int):\n    pass\nx = f.__annotations__",
    "get_type_hints": "import typing\nx = typing.get_type_hints",
    "inspect": "import inspect",
    "own file": "from pathlib import Path\nx = Path(__file__).with_name('k.txt').read_text()",
    "path of the package": "import pipeline.s\nx = pipeline.s.__path__",
    "path by its name": "x = open('pipeline/k.txt').read()",
    "sys.path": "import sys\nsys.path.append('elsewhere')",
    "computed sys.modules": "import sys\ndef f(n):\n    return sys.modules[n]",
    "singledispatch": "from functools import singledispatch",
    "captured output": "import contextlib\nx = contextlib.redirect_stdout",
    "syntax error": "def f(:",
    # Found by a tester who had not read fingerprints.py.
    "import_module elsewhere": (
        "from importlib import import_module\nP = 'pipeline.s'\nx = import_module('.h', P)"
    ),
    "import_module with a dot": (
        "from importlib import import_module\nx = import_module('.h', __package__)"
    ),
    "importlib of another": "from pipeline import s\nx = s.importlib.import_module('a' + 'b')",
    "everything of importlib": "from importlib import *\nx = import_module('a' + 'b')",
    "pickle": "import pickle\nx = pickle.loads(b'')",
    "types of fields": "import dataclasses\nx = dataclasses.fields(int)[0].type",
    "another stdout": "import io, sys\nsys.stdout = io.StringIO()",
    "another package": "__package__ = 'pipeline.s'\nfrom .h import f",
    "another print": "globals()['print'] = str",
}
SAME = {
    "comment": ("x = 1", "x = 1  # one"),
    "docstring": ("def f():\n    'Old.'\n    return 1", "def f():\n    'New.'\n    return 1"),
    "annotation": ("def f(x):\n    return x", "def f(x: int) -> int:\n    return x"),
    "type of a field": (
        "import dataclasses\n@dataclasses.dataclass\nclass D:\n    a: int = 1",
        "import dataclasses\n@dataclasses.dataclass\nclass D:\n    a: float = 1",
    ),
    "import for types": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pipeline.h import f",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pipeline.s.h import f",
    ),
    "raise": (
        "def f(x):\n    raise E(f'{x}: wrong')",
        "def f(x):\n    raise E(f'bad: {x} of {len(x)}')",
    ),
    "print": ("print(f'{x:.3f} s')", "print(f'after {x:.1f} seconds', flush=True)"),
    "join": ("raise E('a: ' + ', '.join(names))", "raise E('b: ' + '; '.join(sorted(names)))"),
    "warn": ("import warnings\nwarnings.warn('a')", "import warnings\nwarnings.warn('b')"),
    "assert": ("assert x, 'a'", "assert x, 'b'"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("x = 1")
    write(tmp_path, "h", H)
    write(tmp_path, "s/h", H)
    write(tmp_path, "s/__init__", "")
    (tmp_path / "pipeline" / "k.txt").write_text("1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.py").write_text("")
    return tmp_path


def write(root: Path, module: str, text: str) -> Path:
    path = root / "pipeline" / f"{module}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def found(root: Path) -> dict[str, str]:
    return fingerprints.fingerprints(["pipeline.m"], root)


@pytest.mark.parametrize("form", FOLLOWED)
def test_every_form_of_using_code_is_seen(tmp_path: Path, form: str) -> None:
    module, others = FOLLOWED[form]
    results = []
    for version in (1, 2):
        for name, text in {"m": module, **others}.items():
            for mark, *values in EDITS:
                text = re.sub(rf"\b{mark}\b", values[version - 1], text)
            write(tmp_path, name, text)
        results.append(found(tmp_path))
    assert results[0] != results[1]


@pytest.mark.parametrize("form", REFUSED)
def test_what_cannot_be_followed_is_refused_with_its_line(root: Path, form: str) -> None:
    write(root, "m", f"\n{REFUSED[form]}")
    with pytest.raises(UserError, match=r"^pipeline/m\.py, line [2-5]: "):
        found(root)


@pytest.mark.parametrize("form", SAME)
def test_what_only_speaks_does_not_count(root: Path, form: str) -> None:
    results = []
    for text in SAME[form]:
        write(root, "m", text)
        results.append(found(root))
    assert results[0] == results[1]


def test_a_compiled_module_counts_by_its_bytes(tmp_path: Path) -> None:
    write(tmp_path, "m", "import pipeline.fast")
    suffix = ".cpython-313-x86_64-linux-gnu.so"
    results = []
    for content in (b"one", b"two"):
        (tmp_path / "pipeline" / f"fast{suffix}").write_bytes(content)
        results.append(found(tmp_path))
    assert results[0] != results[1]
    assert results[0].keys() == {"m.py", f"fast{suffix}"}


# --- the package itself ---------------------------------------------------------------------------


def stage_modules() -> list[str]:
    """The modules of all stages' tasks."""
    tasks = stages.load("sample", "demo").tasks
    return sorted({module for task in tasks if task.ages for module in task.code})


def sites(tree: ast.Module) -> Iterator[ast.AST]:
    """Every constant and operator of a module that is executed and does not only speak."""
    silent: set[ast.AST] = set()
    for node in ast.walk(tree):
        spoken: list[ast.AST | None] = [getattr(node, "annotation", None)]
        spoken.append(getattr(node, "returns", None))
        match node:
            case ast.Raise(exc=part) | ast.Assert(msg=part):
                spoken.append(part)
            case ast.Call() if ast.unparse(node.func) in ("print", "warnings.warn"):
                spoken.append(node)
            case ast.Expr(value=ast.Constant()):
                spoken.append(node)
            case ast.If() if ast.unparse(node.test) == "TYPE_CHECKING":
                spoken += node.body
        silent |= {below for part in spoken if part for below in ast.walk(part)}
    for node in ast.walk(tree):
        value = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
        changes = isinstance(value, str | int | float | bytes)
        if node not in silent and (
            changes or isinstance(node, ast.BinOp | ast.Compare | ast.BoolOp)
        ):
            yield node


def mutate(node: ast.AST) -> None:
    """Change one constant or operator."""
    if isinstance(node, ast.Constant):
        value = node.value
        more: object = "_" if isinstance(value, str) else b"_" if isinstance(value, bytes) else 1
        node.value = not value if isinstance(value, bool) else value + more  # type: ignore[operator]
    elif isinstance(node, ast.BinOp):
        node.op = ast.Sub() if not isinstance(node.op, ast.Sub) else ast.Add()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.Compare):
        node.ops[0] = ast.Gt() if not isinstance(node.ops[0], ast.Gt) else ast.Lt()


def test_a_mutation_anywhere_in_what_a_stage_executes_is_seen() -> None:
    """Some of the sites of each module; with DIGITS_EVERY_MUTATION=1 all of them."""
    root, count = PACKAGE.parent, 0
    for path in closure(stage_modules(), root).values():
        text = path.read_text()
        places = len(list(sites(ast.parse(text))))
        chosen = range(places)
        if "DIGITS_EVERY_MUTATION" not in os.environ:
            chosen = random.Random(0).sample(chosen, min(places, 8))
        before = fingerprints._Module(path, ast.unparse(ast.parse(text)).encode(), root).digest
        for place in chosen:
            tree = ast.parse(text)
            node = list(sites(tree))[place]
            mutate(node)
            try:
                after = fingerprints._Module(path, ast.unparse(tree).encode(), root).digest
            except UserError:
                continue  # it would be refused
            assert after != before, f"{path}, line {node.lineno}: {ast.unparse(node)}"
            count += 1
    assert count > 150


# --- what runs ------------------------------------------------------------------------------------


def test_an_edit_within_the_same_second_runs_as_it_is_recorded(project: Path) -> None:
    """Python's own cache tells edits apart by second and size."""
    path = write(project, "splits", (project / "pipeline" / "split.py").read_text())
    declared = project / "pipeline" / "stages.py"
    declared.write_text(
        declared.read_text().replace("pipeline.split:split", "pipeline.splits:split")
    )
    for stage in ("download", "preprocess", "split"):
        ended = run_digits(project, stage, "--dataset", "sample", "--config", "sprint")
        assert ended.returncode == 0, ended.stderr
    [folds] = (project / "data" / "sample" / "folds").glob("*/fold_ids.npy")
    before, text = folds.read_bytes(), path.read_text()
    new = text.replace("np.full(len(labels), -1,", "np.full(len(labels), -2,")
    assert len(new) == len(text) and new != text
    stat = path.stat()
    path.write_text(new)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    time.sleep(0.01)
    ended = run_digits(project, "split", "--dataset", "sample", "--config", "sprint")
    assert ended.returncode == 0, ended.stderr
    assert "the code in splits.py has changed" in ended.stdout
    assert folds.read_bytes() != before
    forget()
