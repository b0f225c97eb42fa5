"""Find the credentials that the client would use, and check them before any request is made.

The places are those of kaggle 2.2 and kagglesdk, in their order: an access token, then the older
key, then a login with `kaggle auth login`.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from pipeline.errors import UserError
from pipeline.kaggle import SUBMIT_PAGE, inside

SETTINGS = "https://www.kaggle.com/settings"
# The label under which a notebook's secrets hold the token.
LABEL = "KAGGLE_API_TOKEN"
# The characters of tokens, keys and user names.
WORD = re.compile(r"[\w.+/~-]+", re.ASCII)
PLAIN = "in plain text (UTF-8 without BOM)"
NO_TOKEN = f"expected the token alone, one word {PLAIN}"
NO_KEY = f'expected {{"username": "…", "key": "…"}} {PLAIN}, as Kaggle delivered it'


@dataclass(frozen=True)
class Found:
    """Credentials that are there in one of the places.

    Attributes:
        kind: "token", "key" or "login".
        place: what the user calls it: a variable, or the path of a file.
        fault: what is wrong with it; "" if nothing is.
    """

    kind: str
    place: str
    fault: str = ""

    def __str__(self) -> str:
        return f"the {self.kind} in {self.place}"


def require(home: str) -> None:
    """Raise UserError if there are no credentials, or if those that would be used are unusable.

    Args:
        home: the competition's address, for the ways to do without.
    """
    found = find()
    if not found and inside.notebook():
        _take_from_secrets()
        found = find()
    if found and not found[0].fault:
        return
    if found:
        raise UserError(
            f"Kaggle credentials in {found[0].place}: {found[0].fault}; {_hidden(found, found[0])}"
            f"fix or remove it, or create a new token at {SETTINGS}"
        )
    if inside.notebook():
        raise UserError(
            f"no Kaggle credentials in this notebook: switch its internet on, create a token at "
            f"{SETTINGS} and add it to the notebook's secrets (Add-ons) as {LABEL}; or "
            f"{inside.BY_HAND}"
        )
    tokens, key, login = _files()
    places = ", ".join(map(str, ["KAGGLE_API_TOKEN", *tokens, "KAGGLE_KEY", key, login]))
    hint = "".join(f" {path} is not looked at: rename or move it." for path in _misnamed()[:1])
    raise UserError(
        f"no Kaggle credentials in {places}.{hint} Create a token at "
        f"{SETTINGS} and save it as ~/.kaggle/access_token or in KAGGLE_API_TOKEN; or use a "
        f"browser: download the zip from {home}/data, give DATASET=digit-recognizer.zip, and "
        f"upload the CSV at {SUBMIT_PAGE}; or run `make demo`, which needs none"
    )


def find() -> list[Found]:
    """Return the credentials that are there, in the order in which the client looks."""
    tokens, key, login = _files()
    logins = [Found("login", str(login))] if login.exists() else []
    return [*_find_tokens(tokens), *_find_key(key), *logins]


def sent(found: Sequence[Found], authorization: str) -> Found:
    """Return the credentials that a request carried, by its Authorization header."""
    is_key = authorization.startswith("Basic")
    return next((each for each in found if (each.kind == "key") == is_key), found[0])


def remedy(found: Sequence[Found], refused: Found) -> str:
    """Return what to do about credentials that Kaggle refuses."""
    if refused.kind == "login":
        return "run `kaggle auth login` again"
    return f"{_hidden(found, refused)}create a new one at {SETTINGS}"


def _hidden(found: Sequence[Found], used: Found) -> str:
    """Name the credentials that would be used if those before them were removed."""
    others = [each.place for each in found if each.kind != used.kind and not each.fault]
    return f"it hides {others[0]}: remove it to use that, or " if others else ""


def _take_from_secrets() -> None:
    """Give the client the token in the notebook's secrets, where there is one."""
    # kaggle_secrets is only there, and has an exception of its own for each reason to refuse.
    with contextlib.suppress(Exception):
        secrets = import_module("kaggle_secrets").UserSecretsClient()
        os.environ["KAGGLE_API_TOKEN"] = secrets.get_secret(LABEL)


def _find_tokens(files: list[Path]) -> Iterator[Found]:
    own = Path(os.environ.get("KAGGLE_API_V1_TOKEN") or "/nowhere")
    if inside.notebook() and "KAGGLE_DATA_PROXY_URL" in os.environ and own.is_file():
        yield Found("token", str(own))  # the notebook's own
    variable = os.environ.get("KAGGLE_API_TOKEN", "")
    short = len(variable) < 256  # the client takes it for a file's name, and fails if it is longer
    named = [Path(variable)] if short and Path(variable).is_file() else []
    if variable and not named:
        good = short and WORD.fullmatch(variable)
        yield Found("token", "KAGGLE_API_TOKEN", "" if good else NO_TOKEN)
    for path in (*named, *files):
        text, fault = _read(path)
        if text and not WORD.fullmatch(text):
            fault = NO_TOKEN
        if text or fault:  # an empty file counts as none
            yield Found("token", str(path), fault)


def _find_key(file: Path) -> Iterator[Found]:
    """Find the older key: of each half, the variable comes before the file."""
    variables = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
    values = {half: os.environ[name] for half, name in variables.items() if os.environ.get(name)}
    if len(values) < 2 and file.exists():
        place, expected = str(file), NO_KEY
        text, fault = _read(file)
        with contextlib.suppress(ValueError, TypeError):  # not JSON, or not an object
            values = {**json.loads(text), **values}
    elif values:
        place, expected, fault = " and ".join(variables.values()), "set both, each to one word", ""
    else:
        return
    good = all(WORD.fullmatch(str(values.get(half) or "")) for half in variables)
    yield Found("key", place, fault or ("" if good else expected))


def _files() -> tuple[list[Path], Path, Path]:
    """Return where a token, the key and a login may be stored."""
    home = folder = Path.home() / ".kaggle"
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        folder = Path(os.environ["KAGGLE_CONFIG_DIR"])
    elif not home.exists():
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    tokens = [home / "access_token", home / "access_token.txt"]
    return tokens, folder / "kaggle.json", home / "credentials.json"


def _misnamed() -> list[Path]:
    """Return files that look like credentials, but have another name or are in another folder."""
    tokens, key, login = _files()
    folders = (login.parent, key.parent, Path.home() / "Downloads", Path.cwd())
    patterns = ("kaggle*.json*", "access_token*", "kaggle*.txt")
    found = [path for folder in folders for each in patterns for path in sorted(folder.glob(each))]
    return [path for path in found if path not in (*tokens, key, login)]


def _read(path: Path) -> tuple[str, str]:
    """Return the text of a file ("?" if it is not text), and why it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8").strip(), ""
    except FileNotFoundError:
        return "", ""
    except OSError as error:
        return "", f"it cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return "?", ""
