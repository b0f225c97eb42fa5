"""credentials.py: what is wrong with credentials is said before any request, and no secret is."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import UserError
from pipeline.kaggle import credentials

KEY = {"username": "someone", "key": "0123456789abcdef0123456789abcdef"}
GOOD_KEY = json.dumps(KEY)
GOOD_TOKEN = "KGAT_0123456789abcdef0123456789abcdef"
VARIABLES = (
    *("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"),
    *("KAGGLE_API_V1_TOKEN", "KAGGLE_DATA_PROXY_URL", "KAGGLE_KERNEL_RUN_TYPE"),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials, and a current folder without any."""
    for name in (*VARIABLES, "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".kaggle").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "home"


def refusal() -> str:
    with pytest.raises(UserError) as caught:
        credentials.require("https://home")
    said = str(caught.value)
    for secret in (KEY["key"], GOOD_TOKEN):
        assert secret not in said
    return said


def place(home: Path, name: str, content: bytes | str) -> Path:
    path = home / ".kaggle" / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("access_token", f"{GOOD_TOKEN}\n"),
        ("access_token.txt", GOOD_TOKEN),
        ("kaggle.json", GOOD_KEY),
        ("credentials.json", "{}"),
    ],
)
def test_good_credentials_pass(home: Path, name: str, content: str) -> None:
    place(home, name, content)
    credentials.require("")


def test_variables_are_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", KEY["key"])
    credentials.require("")
    monkeypatch.setenv("KAGGLE_API_TOKEN", GOOD_TOKEN)
    assert [found.kind for found in credentials.find()] == ["token", "key"]


def test_a_token_variable_may_name_a_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place(home, "elsewhere", GOOD_TOKEN)
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(path))
    credentials.require("")
    path.write_text("KGAT_1 KGAT_2")
    assert f"{path}: expected the token alone" in refusal()


NO_TOKENS = [
    f"export KAGGLE_API_TOKEN={GOOD_TOKEN}\n",
    "<your-token>",
    "KGAT_é",
    GOOD_TOKEN.encode("utf-16"),
    b"\xef\xbb\xbf" + GOOD_TOKEN.encode(),
]


@pytest.mark.parametrize("content", NO_TOKENS)
def test_a_file_that_is_no_token(home: Path, content: bytes | str) -> None:
    path = place(home, "access_token", content)
    assert f"{path}: expected the token alone" in refusal()


NO_KEYS = [
    GOOD_KEY.encode("utf-16"),
    "{username: someone, key: abc}",
    json.dumps([KEY]),
    json.dumps({**KEY, "key": ""}),
    json.dumps({**KEY, "username": "<someone>"}),
]


@pytest.mark.parametrize("content", NO_KEYS)
def test_a_file_that_is_no_key(home: Path, content: bytes | str) -> None:
    path = place(home, "kaggle.json", content)
    assert f'{path}: expected {{"username": ' in refusal()


def test_half_of_a_key_in_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    assert "KAGGLE_USERNAME and KAGGLE_KEY: set both" in refusal()
    place(home, "kaggle.json", json.dumps({"key": KEY["key"]}))  # the other half
    credentials.require("")


def test_a_token_too_long_for_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "x" * 300)  # which it takes for a file's name
    assert "KAGGLE_API_TOKEN: expected the token alone" in refusal()


def test_without_credentials_every_place_is_listed(home: Path) -> None:
    (home / ".kaggle" / "access_token").touch()  # an empty file counts as none
    said = refusal()
    for expected in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "access_token.txt", "kaggle.json"):
        assert expected in said
    assert "make demo" in said


def test_a_bad_token_that_hides_a_good_key_says_so(home: Path) -> None:
    place(home, "access_token.txt", "export X=1")
    key = place(home, "kaggle.json", GOOD_KEY)
    assert f"it hides {key}" in refusal()


# --- inside a notebook ---------------------------------------------------------------------------


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setenv("KAGGLE_DATA_PROXY_URL", "https://proxy")


@pytest.mark.parametrize("found", [True, False])
def test_the_secrets_of_a_notebook(
    notebook: None, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    def get_secret(label: str) -> str:
        assert label == "KAGGLE_API_TOKEN"
        if not found:
            raise LookupError("no user secrets exist for this kernel")
        return GOOD_TOKEN

    monkeypatch.setenv("KAGGLE_API_TOKEN", "")  # which the test's end restores
    client = SimpleNamespace(get_secret=get_secret)
    module = SimpleNamespace(UserSecretsClient=lambda: client)
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)
    if found:
        credentials.require("")
        assert os.environ["KAGGLE_API_TOKEN"] == GOOD_TOKEN
    else:
        assert "secrets (Add-ons) as KAGGLE_API_TOKEN; or download the CSV" in refusal()


def test_without_the_module_of_the_secrets_the_way_out_is_the_output(notebook: None) -> None:
    assert "download the CSV from the notebook's output" in refusal()


def test_a_notebook_has_a_token_of_its_own(
    notebook: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place(home, "of-the-notebook", GOOD_TOKEN)
    monkeypatch.setenv("KAGGLE_API_V1_TOKEN", str(path))
    credentials.require("")
    assert [found.place for found in credentials.find()] == [str(path)]
    monkeypatch.delenv("KAGGLE_DATA_PROXY_URL")  # without it, the client does not look there
    assert list(credentials.find()) == []
