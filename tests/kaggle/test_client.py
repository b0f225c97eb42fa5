"""client.py: what is retried, what ends at once with which remedy, and that no secret is shown."""

from typing import Any

import pytest
from requests import PreparedRequest, Response, exceptions

from pipeline.errors import ExternalError, UserError
from pipeline.kaggle import client
from pipeline.kaggle.client import _describe, with_retries
from pipeline.kaggle.credentials import Found

FOUND = [Found("token", "token.txt"), Found("key", "kaggle.json"), Found("login", "login.json")]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.0)
    for name in client.PROXIES:
        monkeypatch.delenv(name, raising=False)


def call_that_fails(error: BaseException) -> tuple[list[int], Any]:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise _describe(error, FOUND)

    return calls, call


def answer(status: int, text: str, authorization: str = "") -> exceptions.HTTPError:
    response = Response()
    response.status_code = status
    response.request = PreparedRequest()
    response.request.headers = {"Authorization": authorization}  # type: ignore[assignment]
    return exceptions.HTTPError(text, response=response)


RETRIED = [
    exceptions.ConnectionError("reset by peer"),
    exceptions.ProxyError("Unable to connect to proxy, RemoteDisconnected"),
    ValueError("Downloaded size does not match expected size"),
    answer(429, "slow down"),
    answer(503, "busy"),
]
VERIFY = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {} (_ssl.c:1006)"
TUNNEL = "Cannot connect to proxy, OSError('Tunnel connection failed: {}')"
AT_ONCE = [
    (exceptions.SSLError(VERIFY.format("self-signed certificate")), "REQUESTS_CA_BUNDLE"),
    (exceptions.SSLError(VERIFY.format("certificate is not yet valid")), "date and time"),
    (exceptions.ProxyError(TUNNEL.format("407 Proxy Authentication Required")), "USER:PASSWORD"),
    (exceptions.ProxyError(TUNNEL.format("403 Forbidden")), "failed: 403 Forbidden"),
    (exceptions.InvalidProxyURL("Please check proxy URL. It is malformed"), "proxy settings"),
    (exceptions.InvalidSchema("Missing dependencies for SOCKS support."), "pysocks"),
    (OSError("Could not find a suitable TLS CA certificate bundle"), "REQUESTS_CA_BUNDLE"),
    (PermissionError(13, "Permission denied", "s.csv"), "s.csv: Permission denied"),
    (TypeError("unexpected keyword"), "reinstall the environment"),
    (SystemExit(1), "the token in token.txt"),
    (answer(401, "expired", "Bearer x"), "the token in token.txt (401: expired)"),
    (answer(401, "expired", "Basic x"), "the key in kaggle.json (401: expired)"),
    (answer(403, "You must verify your phone number"), "verify your phone at"),
    (answer(403, "You must accept this competition's rules"), "/rules"),
    (answer(403, "403 Client Error: Forbidden for url: https://x/?y=z"), "/rules"),
    (answer(403, ""), "/rules"),
]


@pytest.mark.parametrize("error", RETRIED, ids=str)
def test_lost_connections_and_busy_services_are_retried(error: BaseException) -> None:
    calls, call = call_that_fails(error)
    with pytest.raises(ExternalError, match="failed 5 times"):
        with_retries("the download", call)
    assert len(calls) == 5


@pytest.mark.parametrize(("error", "part"), AT_ONCE, ids=str)
def test_what_the_user_can_fix_ends_at_once(error: BaseException, part: str) -> None:
    calls, call = call_that_fails(error)
    with pytest.raises(UserError) as caught:
        with_retries("the download", call)
    assert part in str(caught.value)
    assert len(calls) == 1


def test_another_refusal_ends_at_once_in_the_words_of_the_service() -> None:
    calls, call = call_that_fails(answer(404, "no such thing"))
    with pytest.raises(ExternalError, match=r"\(404\): no such thing"):
        with_retries("the download", call)
    assert len(calls) == 1


@pytest.mark.parametrize("words", ["The token lacks a scope", "This competition is closed"])
def test_a_403_for_another_reason_gives_no_advice_about_rules(words: str) -> None:
    _, call = call_that_fails(answer(403, words, "Bearer x"))
    with pytest.raises(UserError, match=words) as caught:
        with_retries("the submission", call)
    assert "the token in token.txt" in str(caught.value)
    assert "rules" not in str(caught.value)


def test_the_proxy_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:1")
    said = "Unable to connect to proxy, NewConnectionError(http://me:secret@proxy:1)"
    _, call = call_that_fails(exceptions.ProxyError(said))
    with pytest.raises(UserError, match="check HTTPS_PROXY") as caught:
        with_retries("the download", call)
    assert "secret" not in str(caught.value)


def test_in_a_notebook_the_way_out_is_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    _, call = call_that_fails(answer(503, ""))
    with pytest.raises(ExternalError, match="switch the notebook's internet on, or download"):
        with_retries("the submission", call)


@pytest.mark.parametrize("text", ["60s", "-1", "nan", "inf"])
def test_a_number_of_seconds_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("DIGITS_STALL_SECONDS", text)
    with pytest.raises(UserError, match=f'DIGITS_STALL_SECONDS must .* not "{text}"'):
        client._seconds("DIGITS_STALL_SECONDS", 60)


@pytest.mark.parametrize(("text", "seconds"), [("", 60), ("0.5", 0.5)])
def test_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv("DIGITS_STALL_SECONDS", text)
    assert client._seconds("DIGITS_STALL_SECONDS", 60) == seconds


def test_pauses_double_are_jittered_and_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 2.0)
    for attempt, longest in ((2, 2), (3, 4), (4, 8), (10, 60), (10_000, 60)):
        pauses = {client.pause_before(attempt) for _ in range(50)}
        assert longest / 2 <= min(pauses) <= max(pauses) <= longest
    assert client.pause_before(2, 30) == 30
    assert client.pause_before(2, 3600) == 60
