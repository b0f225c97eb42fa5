"""code.py: a fingerprint changes with the code that a definition uses, and with nothing else."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import PACKAGE
from pipeline.code import fingerprints

from pipeline import code
from pipeline.errors import UserError

SOURCE = '''\
"""What the module is for."""

import math

FACTOR = 2


def double(x):
    """Twice x."""
    # An explanation.
    return _times(x)


def _times(x):
    return x * FACTOR


def half(x):
    return x / math.pi


class Shape:
    """A shape."""

    sides = 4

    def area(self):
        """Its area."""
        return self.sides
'''


def write(root: Path, modules: Mapping[str, str]) -> None:
    """Write modules of a package `pipeline` below `root`; "a/b" is the module pipeline.a.b."""
    for name, text in modules.items():
        path = root / "pipeline" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def changed(root: Path, entry: str, module: str, old: str, new: str) -> bool:
    """Whether replacing `old` by `new` in a module changes the fingerprints of an entry."""
    path = root / "pipeline" / f"{module}.py"
    text = path.read_text()
    assert old in text
    before = fingerprints([entry], root)
    path.write_text(text.replace(old, new))
    after = fingerprints([entry], root)
    path.write_text(text)
    return after != before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose package has one module, m."""
    write(tmp_path, {"m": SOURCE})
    return tmp_path


# --- within a module -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# An explanation.", "# A better explanation."),
        ("    # An explanation.\n", ""),
        ("Twice x.", "Two times x."),
        ('    """Twice x."""\n', ""),
        ('"""What the module is for."""', '"""Something else."""'),
        ('    """A shape."""\n', ""),
        ('        """Its area."""\n', ""),
        ("return x * FACTOR", "return (x\n            * FACTOR)"),
        ("\n\n\ndef half", "\n\n\n\n\ndef half"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(root: Path, old: str, new: str) -> None:
    for name in ("double", "half", "Shape"):
        assert not changed(root, f"pipeline.m:{name}", "m", old, new)


@pytest.mark.parametrize(
    ("old", "new", "users"),
    [
        ("FACTOR = 2", "FACTOR = 3", {"double", "_times"}),
        ("x * FACTOR", "x + FACTOR", {"double", "_times"}),
        ("def double(x)", "def double(x=None)", {"double"}),
        ("x / math.pi", "x / math.e", {"half"}),
        ("import math", "import cmath as math", {"half"}),
        ("sides = 4", "sides = 5", {"Shape"}),
        ("return self.sides", "return None", {"Shape"}),
        ("def half(x)", "def unrelated(x):\n    return x\n\n\ndef half(x)", set()),
    ],
)
def test_a_change_counts_for_the_definitions_that_use_it(
    root: Path, old: str, new: str, users: set[str]
) -> None:
    names = ("double", "_times", "half", "Shape")
    assert {n for n in names if changed(root, f"pipeline.m:{n}", "m", old, new)} == users


@pytest.mark.parametrize(
    "helper",
    [
        "A, B = {}, 1\n",
        "if True:\n    A = {}\nelse:\n    A = 0\n",
        "A: int = {}\n",
        "try:\n    A = {}\nexcept ValueError:\n    A = 0\n",
        "A = 0\nA += {}\n",
        "for A in range({}):\n    pass\n",
        "async def A():\n    return {}\n",
        "class A:\n    b = {}\n",
        "with open('a') as A:\n    A.read({})\n",
    ],
)
def test_helpers_are_found_however_they_are_defined(tmp_path: Path, helper: str) -> None:
    write(tmp_path, {"m": helper.format(1) + "def f():\n    return A\n"})
    assert changed(tmp_path, "pipeline.m:f", "m", helper.format(1), helper.format(2))


def test_a_decorator_counts(tmp_path: Path) -> None:
    text = "def twice(f):\n    return f\n\n\n@twice\ndef f():\n    return 1\n"
    write(tmp_path, {"m": text})
    assert changed(tmp_path, "pipeline.m:f", "m", "return f", "return lambda: 2 * f()")


def test_statements_that_run_on_import_count(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "m": "from pipeline import other\n\n\ndef f():\n    return other.g()\n",
            "other": "import gc\n\ngc.set_threshold(1)\n\n\ndef g():\n    return 1\n",
        },
    )
    assert changed(tmp_path, "pipeline.m:f", "other", "threshold(1)", "threshold(2)")


# --- across modules ------------------------------------------------------------------------------

HELPER = """\
def helper():
    return _inner()


def _inner():
    return 1


def other():
    return 2
"""


@pytest.mark.parametrize(
    "user",
    [
        "from pipeline import h\n\n\ndef f():\n    return h.helper()\n",
        "from pipeline import h as renamed\n\n\ndef f():\n    return renamed.helper()\n",
        "from pipeline.h import helper\n\n\ndef f():\n    return helper()\n",
        "from pipeline.h import helper as renamed\n\n\ndef f():\n    return renamed()\n",
        "def f():\n    from pipeline.h import helper\n\n    return helper()\n",
        "def f():\n    from pipeline import h\n\n    return h.helper()\n",
        "from pipeline.h import helper\n\nTABLE = {1: helper}\n\ndef f():\n    return TABLE\n",
        "from pipeline.h import helper\n\n\ndef f(x=helper()):\n    return x\n",
    ],
)
def test_helpers_of_other_modules_are_found(tmp_path: Path, user: str) -> None:
    write(tmp_path, {"m": user, "h": HELPER})
    assert set(fingerprints(["pipeline.m:f"], tmp_path)) == {"m.py", "h.py"}
    assert changed(tmp_path, "pipeline.m:f", "h", "return 1", "return 3")
    assert not changed(tmp_path, "pipeline.m:f", "h", "return 2", "return 3")


def test_a_whole_module_counts_if_it_is_not_used_by_attribute(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"m": "from pipeline import h\n\n\ndef f():\n    return vars(h)\n", "h": HELPER},
    )
    assert changed(tmp_path, "pipeline.m:f", "h", "return 2", "return 3")


def test_a_module_of_a_subfolder_and_a_package_are_found(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "m": "from pipeline.a import SIZE, b\n\n\ndef f():\n    return b.g(SIZE)\n",
            "a/__init__": "SIZE = 1\n",
            "a/b": "def g(size):\n    return size + 2\n",
        },
    )
    assert set(fingerprints(["pipeline.m:f"], tmp_path)) == {"m.py", "a/__init__.py", "a/b.py"}
    assert changed(tmp_path, "pipeline.m:f", "a/__init__", "SIZE = 1", "SIZE = 2")
    assert changed(tmp_path, "pipeline.m:f", "a/b", "size + 2", "size + 3")


def test_a_name_imported_to_be_imported_from_there_leads_to_its_definition(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "m": "from pipeline.front import helper\n\n\ndef f():\n    return helper()\n",
            "front": "from pipeline.h import helper\n",
            "h": HELPER,
        },
    )
    assert changed(tmp_path, "pipeline.m:f", "h", "return 1", "return 3")


def test_modules_that_use_each_other_come_to_an_end(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "m": "def f():\n    from pipeline import h\n\n    return h.g()\n",
            "h": "def g():\n    from pipeline import m\n\n    return m.f() + 1\n",
        },
    )
    assert changed(tmp_path, "pipeline.m:f", "h", "+ 1", "+ 2")


def test_the_package_imports_itself_in_the_way_that_is_followed() -> None:
    """By absolute name, with `from`: "import pipeline.csvs", "from . import" and * are not."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("pipeline") for alias in node.names), path
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                assert "*" not in {alias.name for alias in node.names}, path


def test_neutral_modules_do_not_count(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "m": "from pipeline import errors\n\n\ndef f():\n    return errors.UserError\n",
            "errors": "UserError = 1\n",
        },
    )
    assert set(fingerprints(["pipeline.m:f"], tmp_path)) == {"m.py"}
    assert not changed(tmp_path, "pipeline.m:f", "errors", "= 1", "= 2")


def test_neutral_modules_exist() -> None:
    for module in code.NEUTRAL:
        assert PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py").is_file(), module


# --- other entries, and errors -------------------------------------------------------------------


def test_every_byte_of_a_file_in_another_language_counts(root: Path) -> None:
    (root / "pipeline" / "report").mkdir()
    page = root / "pipeline" / "report" / "page.html"
    page.write_text("<p>one</p>\n")
    before = fingerprints(["pipeline.m:half", "report/page.html"], root)
    assert set(before) == {"m.py", "report/page.html"}
    page.write_text("<p>one</p>\n\n")
    after = fingerprints(["pipeline.m:half", "report/page.html"], root)
    assert {file for file in before if before[file] != after[file]} == {"report/page.html"}


def test_an_unknown_definition_names_its_file(root: Path) -> None:
    with pytest.raises(UserError, match=r"pipeline/m\.py.*'absent'"):
        fingerprints(["pipeline.m:absent"], root)


def test_a_syntax_error_names_file_and_line(root: Path) -> None:
    write(root, {"m": SOURCE.replace("def half(x):", "def half(x:")})
    with pytest.raises(UserError, match=r"pipeline/m\.py, line 18: "):
        fingerprints(["pipeline.m:double"], root)
