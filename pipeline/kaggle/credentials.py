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
# What the client calls the variable with a token; a notebook's secrets hold it under this label.
TOKEN = "KAGGLE_API_TOKEN"  # noqa: S105
# A token, key or user name. The client fails on a longer one, which it takes for a file's name.
WORD = re.compile(r"[\w.+/~-]{1,255}", re.ASCII)
NO_TOKEN = "expected the token alone, one word in plain text (UTF-8 without BOM)"  # noqa: S105
NO_KEY = 'expected {"username": "…", "key": "…"} in plain text, as Kaggle delivered it'


@dataclass(frozen=True)
class Found:
    """Credentials that are there in one of the places."""

    kind: str  # "token", "key" or "login"
    place: str  # what the user calls it: a variable, or the path of a file
    fault: str = ""  # what is wrong with it

    def __str__(self) -> str:
        return f"the {self.kind} in {self.place}"


def require(home: str) -> None:
    """Raise UserError if there are no credentials, or if those that would be used are unusable.

    `home` is the competition's address, for the ways to do without.
    """
    if not (found := find()) and inside.notebook():
        # kaggle_secrets is only there, and has an exception of its own for each reason to refuse.
        with contextlib.suppress(Exception):
            os.environ[TOKEN] = (
                import_module("kaggle_secrets").UserSecretsClient().get_secret(TOKEN)
            )
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
            f"{SETTINGS} and add it to the notebook's secrets (Add-ons) as {TOKEN}; or "
            f"{inside.BY_HAND}"
        )
    tokens, key, login = _files()
    places = ", ".join(map(str, [TOKEN, *tokens, "KAGGLE_KEY", key, login]))
    raise UserError(
        f"no Kaggle credentials in {places}. Create a token at {SETTINGS} and save it as "
        f"~/.kaggle/access_token or in {TOKEN}; or use a browser: download the zip from "
        f"{home}/data, give DATASET=digit-recognizer.zip, and upload the CSV at {SUBMIT_PAGE}; or "
        "run `make demo`, which needs none"
    )


def find() -> list[Found]:
    """Return the credentials that are there, in the order in which the client looks."""
    tokens, key, login = _files()
    logins = [Found("login", str(login))] if login.exists() else []
    return [*_find_tokens(tokens), *_find_key(key), *logins]


def refused(found: Sequence[Found], authorization: str) -> tuple[Found, str]:
    """Return the credentials that a refused request carried, and what to do about them.

    `authorization` is the header that the request was sent with; "" if that is not known.
    """
    is_key = authorization.startswith("Basic")
    used = next((each for each in found if (each.kind == "key") == is_key), found[0])
    if used.kind == "login":
        return used, "run `kaggle auth login` again"
    return used, f"{_hidden(found, used)}create a new one at {SETTINGS}"


def _hidden(found: Sequence[Found], used: Found) -> str:
    """Name the credentials that would be used if those before them were removed."""
    others = [each.place for each in found if each.kind != used.kind and not each.fault]
    return f"it hides {others[0]}: remove it to use that, or " if others else ""


def _find_tokens(files: list[Path]) -> Iterator[Found]:
    own = os.environ.get("KAGGLE_API_V1_TOKEN", "")
    if inside.notebook() and "KAGGLE_DATA_PROXY_URL" in os.environ and Path(own).is_file():
        yield Found("token", own)  # the notebook's own
    variable = os.environ.get(TOKEN, "")
    if os.path.isfile(variable):  # noqa: PTH113 - Path.is_file fails on a long token
        files = [Path(variable), *files]
    elif variable:
        yield Found("token", TOKEN, "" if WORD.fullmatch(variable) else NO_TOKEN)
    for path in files:
        if text := _read(path):  # an empty file counts as none
            yield Found("token", str(path), "" if WORD.fullmatch(text) else NO_TOKEN)


def _find_key(file: Path) -> Iterator[Found]:
    """Find the older key: of each half, the variable comes before the file."""
    variables = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
    values = {half: os.environ[name] for half, name in variables.items() if os.environ.get(name)}
    place, expected = " and ".join(variables.values()), "set both, each to one word"
    if len(values) < 2 and file.exists():
        place, expected = str(file), NO_KEY
        with contextlib.suppress(ValueError, TypeError):  # not JSON, or not an object
            values = {**json.loads(_read(file)), **values}
    elif not values:
        return
    good = all(WORD.fullmatch(str(values.get(half) or "")) for half in variables)
    yield Found("key", place, "" if good else expected)


def _files() -> tuple[list[Path], Path, Path]:
    """Return where a token, the key and a login may be stored."""
    home = folder = Path.home() / ".kaggle"
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        folder = Path(os.environ["KAGGLE_CONFIG_DIR"])
    elif not home.exists():
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    tokens = [home / "access_token", home / "access_token.txt"]
    return tokens, folder / "kaggle.json", home / "credentials.json"


def _read(path: Path) -> str:
    """Return the text of a file, "" if there is none, "?" if it is not text or cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        return "?"
