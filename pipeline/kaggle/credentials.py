"""Where the client finds credentials, and what is wrong with them, before any request is made.

The places are those of kaggle 2.2 and kagglesdk, in their order: an access token, then the older
key, then a login with `kaggle auth login`.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from pipeline.errors import UserError
from pipeline.kaggle import inside

SETTINGS = "https://www.kaggle.com/settings"
# The label under which a notebook's secrets hold the token.
LABEL = "KAGGLE_API_TOKEN"


@dataclass(frozen=True)
class Found:
    """Something that is there in one of the places.

    Attributes:
        kind: "token", "key" or "login".
        place: what the user calls it: a variable, or the path of a file.
        fault: what is wrong with it; "" if nothing is.
    """

    kind: str
    place: str
    fault: str = ""


def require(home: str) -> None:
    """Raise UserError if there are no credentials, or if those that would be used are unusable.

    Args:
        home: the competition's address, for the ways to do without.
    """
    found = list(find())
    if not found and inside.notebook():
        _take_from_secrets()
        found = list(find())
    if found and not found[0].fault:
        return
    if found:
        others = [other.place for other in found[1:] if not other.fault]
        instead = f" (it hides {others[0]}, which looks good)" if others else ""
        raise UserError(
            f"Kaggle credentials in {found[0].place}: {found[0].fault}{instead}; fix or remove it, "
            f"or create a new token at {SETTINGS}"
        )
    if inside.notebook():
        raise UserError(
            f"no Kaggle credentials in this notebook: switch its internet on, create a token at "
            f"{SETTINGS} and add it to the notebook's secrets (Add-ons) as {LABEL}; or "
            f"{inside.BY_HAND}"
        )
    misnamed = [str(path) for path in _misnamed()]
    hint = f" {misnamed[0]} is not looked at: rename or move it." if misnamed else ""
    raise UserError(
        f"no Kaggle credentials in {', '.join(places())}.{hint} Create a token at {SETTINGS} and "
        "save it as ~/.kaggle/access_token or in KAGGLE_API_TOKEN; or download the zip by hand "
        f"from {home}/data and give DATASET=digit-recognizer.zip; or run `make demo`, which needs "
        "none"
    )


def _take_from_secrets() -> None:
    """Give the client the token in the notebook's secrets, where there is one."""
    # kaggle_secrets is only there, and has an exception of its own for each reason to refuse.
    with contextlib.suppress(Exception):
        secrets = import_module("kaggle_secrets").UserSecretsClient()
        os.environ["KAGGLE_API_TOKEN"] = secrets.get_secret(LABEL)


def refused(kind: str, words: str) -> str:
    """What to say when Kaggle refuses the credentials that were sent.

    Args:
        kind: "token" or "key", as they were sent.
        words: what Kaggle says.
    """
    found = list(find())
    place = next((each.place for each in found if each.kind == kind), f"a {kind}")
    others = [each.place for each in found if each.kind != kind and not each.fault]
    hidden = f"it hides {others[0]}: remove it to use that, or " if others else ""
    return f"Kaggle refuses the {kind} in {place} ({words}); {hidden}create a new one at {SETTINGS}"


def places() -> list[str]:
    """Every place that is looked at."""
    return ["KAGGLE_API_TOKEN", *map(str, _tokens()), "KAGGLE_KEY", str(_key()), str(_login())]


def find() -> Iterator[Found]:
    """What is there, in the order in which the client looks."""
    own = Path(os.environ.get("KAGGLE_API_V1_TOKEN") or "/nowhere")
    if inside.notebook() and "KAGGLE_DATA_PROXY_URL" in os.environ and own.is_file():
        yield Found("token", str(own))  # the notebook's own
    variable = os.environ.get("KAGGLE_API_TOKEN", "")
    if variable and not Path(variable).is_file():
        yield Found("token", "KAGGLE_API_TOKEN", _fault_of_token(variable))
    files = [*([Path(variable)] if variable else []), *_tokens()]
    for path in files:
        if path.exists():
            text, fault = _read(path)
            if text or fault:  # an empty file counts as none
                yield Found("token", str(path), fault or _fault_of_token(text))
    yield from _find_key()
    if _login().exists():
        yield Found("login", str(_login()))


def _find_key() -> Iterator[Found]:
    """The older key: of each half, the variable comes before the file."""
    path = _key()
    values, fault, is_file = {}, "", path.exists()
    if is_file:
        text, fault = _read(path)
        if not fault:
            try:
                values = json.loads(text)
            except ValueError:
                fault = "it is not JSON; it should be as Kaggle delivered it"
            else:
                if not isinstance(values, dict):
                    values, fault = {}, "it is not a JSON object with username and key"
    names = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
    given = {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}
    if not is_file and not given:
        return
    place = "KAGGLE_USERNAME and KAGGLE_KEY" if len(given) == 2 else str(path)
    if len(given) == 1 and not is_file:
        place = names[next(iter(given))]
    if len(given) == 2:
        fault = ""
    for key, value in (values | given).items():
        if key in names and not fault:
            fault = _fault_of_word(value, key)
    missing = [names[key] if not is_file else key for key in names if key not in values | given]
    yield Found("key", place, fault or (f"{missing[0]} is missing" if missing else ""))


def _tokens() -> list[Path]:
    return [Path.home() / ".kaggle" / name for name in ("access_token", "access_token.txt")]


def _key() -> Path:
    """Where the client looks for kaggle.json."""
    folder = Path.home() / ".kaggle"
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        folder = Path(os.environ["KAGGLE_CONFIG_DIR"])
    elif not folder.exists():
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    return folder / "kaggle.json"


def _login() -> Path:
    return Path.home() / ".kaggle" / "credentials.json"


def _misnamed() -> Iterator[Path]:
    """Files that look like credentials, but have another name or are in another folder."""
    known = {*_tokens(), _key(), _login()}
    folders = (Path.home() / ".kaggle", _key().parent, Path.home() / "Downloads", Path.cwd())
    for folder in folders:
        for pattern in ("kaggle*.json*", "access_token*", "kaggle*.txt"):
            yield from (path for path in sorted(folder.glob(pattern)) if path not in known)


def _read(path: Path) -> tuple[str, str]:
    """The text of a file, and what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return "", f"it cannot be read: {error.strerror}"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        return "", "it is UTF-16; save it as UTF-8"
    if content.startswith(b"\xef\xbb\xbf"):
        return "", "it starts with a byte order mark; save it as UTF-8 without BOM"
    try:
        return content.decode("utf-8").strip(), ""
    except UnicodeDecodeError:
        return "", "it is not text"


def _fault_of_token(token: str) -> str:
    if token.lstrip().startswith("{"):
        return "it is a kaggle.json, not a token; save it as ~/.kaggle/kaggle.json"
    return _fault_of_word(token, "token")


def _fault_of_word(value: object, what: str) -> str:
    """What is wrong with a token, a key or a user name."""
    if not isinstance(value, str) or not value:
        return f"{what} must be a string that is not empty"
    if "=" in value or value.startswith(("export ", "set ")):
        return f"{what} contains a copied assignment; leave only what is behind the ="
    if value[0] in "'\"" or value[-1] in "'\"":
        return f"{what} has quotes around it; remove them"
    if value[0] in "<[" or value[-1] in ">]":
        return f"{what} is in brackets, like a placeholder"
    if any(character.isspace() for character in value):
        return f"{what} contains blanks or several lines; it must be one word"
    if not (value.isascii() and value.isprintable()):
        return f"{what} contains characters that no {what} has"
    return ""
