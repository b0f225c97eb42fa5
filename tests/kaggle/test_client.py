"""client.py: what is retried, what ends at once with which remedy, and that no secret is shown."""

from pathlib import Path
from typing import Any

import pytest
from requests import Response, exceptions

from pipeline.errors import ExternalError, UserError
from pipeline.kaggle import client
from pipeline.kaggle.client import CallError, _describe, with_retries


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.0)
    for name in client.PROXIES:
        monkeypatch.delenv(name, raising=False)


def call_that_fails(error: BaseException) -> tuple[list[int], Any]:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise CallError(**_describe(error))

    return calls, call


def answer(status: int, text: str) -> exceptions.HTTPError:
    response = Response()
    response.status_code = status
    return exceptions.HTTPError(text, response=response)


RETRIED = [
    exceptions.ConnectionError("reset by peer"),
    exceptions.ReadTimeout("nothing came"),
    exceptions.ChunkedEncodingError("cut off"),
    exceptions.ProxyError("Unable to connect to proxy, RemoteDisconnected"),
    exceptions.SSLError("UNEXPECTED_EOF_WHILE_READING"),
    answer(408, "timeout"),
    answer(429, "slow down"),
    answer(500, "oops"),
    answer(503, "busy"),
]
TUNNEL = "Cannot connect to proxy, OSError('Tunnel connection failed: {}')"
AT_ONCE = [
    (exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "REQUESTS_CA_BUNDLE"),
    (exceptions.ProxyError(TUNNEL.format("407 Proxy Authentication Required")), "USER:PASSWORD"),
    (exceptions.ProxyError(TUNNEL.format("403 Forbidden")), "refuses the connection (403)"),
    (
        exceptions.ProxyError("NewConnectionError: Connection refused"),
        "the proxy cannot be reached",
    ),
    (exceptions.InvalidProxyURL("bad"), "malformed"),
    (exceptions.InvalidURL("Failed to parse"), "malformed"),
    (exceptions.InvalidHeader("bad header"), "credentials cannot be sent"),
    (UnicodeEncodeError("latin-1", "é", 0, 1, "no"), "credentials cannot be sent"),
    (OSError("Could not find a suitable TLS CA certificate bundle"), "REQUESTS_CA_BUNDLE"),
    (PermissionError(13, "Permission denied", "s.csv"), "s.csv: Permission denied"),
    (TypeError("unexpected keyword"), "the kaggle client failed (TypeError"),
    (answer(401, "Unauthenticated"), "401: Unauthenticated"),
    (answer(403, "You must verify your phone number"), "verify your phone at"),
    (answer(403, "You must accept this competition's rules"), "/rules"),
]


@pytest.mark.parametrize("error", RETRIED, ids=str)
def test_lost_connections_and_busy_services_are_retried(error: BaseException) -> None:
    calls, call = call_that_fails(error)
    with pytest.raises(ExternalError, match="failed 5 times"):
        with_retries("the download", call)
    assert len(calls) == 5


@pytest.mark.parametrize(("error", "part"), AT_ONCE, ids=str)
def test_what_the_user_can_fix_ends_at_once(
    error: BaseException, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    calls, call = call_that_fails(error)
    with pytest.raises(UserError) as caught:
        with_retries("the download", call)
    assert part in str(caught.value)
    assert len(calls) == 1


@pytest.mark.parametrize("status", [400, 404, 422])
def test_another_refusal_ends_at_once_in_the_words_of_the_service(status: int) -> None:
    calls, call = call_that_fails(answer(status, "no such thing"))
    with pytest.raises(ExternalError, match=rf"\({status}\): no such thing"):
        with_retries("the download", call)
    assert len(calls) == 1


def test_kaggles_own_words_about_a_403_are_shown() -> None:
    _, call = call_that_fails(answer(403, "You must verify your phone number"))
    with pytest.raises(UserError) as caught:
        with_retries("the submission", call)
    assert "You must verify your phone number" in str(caught.value)
    assert "rules" not in str(caught.value)


def test_the_proxy_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:1")
    _, call = call_that_fails(exceptions.ProxyError("NewConnectionError(http://me:secret@proxy:1)"))
    with pytest.raises(UserError, match="check HTTPS_PROXY") as caught:
        with_retries("the download", call)
    assert "secret" not in str(caught.value)


def test_in_a_notebook_the_way_out_is_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    _, call = call_that_fails(answer(503, ""))
    with pytest.raises(ExternalError, match="switch the notebook's internet on, or download"):
        with_retries("the submission", call)
