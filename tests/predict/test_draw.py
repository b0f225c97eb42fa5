"""draw.py, draw.html: a digit drawn in a real browser is predicted; strangers get no answer."""

import http.client
import itertools
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import ridge
from browser import Page
from conftest import Digits
from handwriting import from_strokes

from pipeline.predict import draw
from pipeline.stages import Graph

pytestmark = pytest.mark.slow
SIZE = draw.SIDE**2
# A seven, in shares of the canvas.
BAR, LEG = [(0.25, 0.2), (0.72, 0.2)], [(0.72, 0.2), (0.6, 0.5), (0.48, 0.85)]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with ridge.project(tmp_path_factory.mktemp("project")) as built:
        yield built


@pytest.fixture(scope="module")
def server(graph: Graph) -> Iterator[draw.Server]:
    with draw.Server(0) as running:
        running.load(graph)
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


# --- without a browser ----------------------------------------------------------------------------


def ask(
    server: draw.Server, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers and the content of an answer."""
    connection = http.client.HTTPConnection(draw.HOST, server.server_port, timeout=20)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read()


def seven() -> bytes:
    """The ink of a seven, as the page sends it."""
    shape = from_strokes(7, 0.1, np.random.default_rng(1), 180)
    ink = np.zeros((draw.SIDE, draw.SIDE), np.uint8)
    ink[40 : 40 + shape.shape[0], 60 : 60 + shape.shape[1]] = shape * 255
    return ink.tobytes()


def test_an_answer_has_all_that_the_page_shows(server: draw.Server, graph: Graph) -> None:
    status, headers, content = ask(server, "POST", "/predict", seven())
    assert (status, headers["Content-Type"]) == (200, "application/json")
    answer = json.loads(content)
    assert np.argmax(answer["probabilities"]) == 7
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-4)
    assert [network["name"] for network in answer["networks"]] == ["fold 0", "fold 1"]
    labels = np.load(graph.task("preprocess").writes["train_labels"])
    assert len(answer["nearest"]) == draw.NEAREST
    for near in answer["nearest"]:
        assert near["label"] == labels[near["row"] - 1]
    distances = [near["distance"] for near in answer["nearest"]]
    assert distances == sorted(distances)
    assert answer["far"] is False
    status, _, content = ask(server, "POST", "/predict", bytes(SIZE))
    assert (status, json.loads(content)) == (200, {"empty": True})


def test_the_page_may_load_nothing(server: draw.Server) -> None:
    status, headers, content = ask(server, "GET", "/")
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"{{" not in content
    assert b"http://" not in content
    assert b"https://" not in content


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost.example.org"},
        {"Origin": "http://example.org"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
    ],
)
def test_other_hosts_and_origins_are_refused(server: draw.Server, headers: dict[str, str]) -> None:
    assert ask(server, "GET", "/", **headers)[0] == 403
    assert ask(server, "POST", "/predict", seven(), **headers)[0] == 403


def test_its_own_origins_are_allowed(server: draw.Server) -> None:
    own = server.server_port
    assert server.server_address[0] == "127.0.0.1"  # it listens on loopback only
    for host in (f"127.0.0.1:{own}", f"localhost:{own}", "localhost:9000", "localhost", "[::1]:9"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert ask(server, "POST", "/predict", seven(), **headers)[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/../../etc/passwd", None, 404),
        ("POST", "/predict", b"short", 400),
        ("POST", "/predict", bytes(SIZE + 1), 400),
        ("PUT", "/predict", bytes(SIZE), 501),
    ],
)
def test_what_is_no_drawing_is_refused(
    server: draw.Server, method: str, path: str, body: bytes | None, status: int
) -> None:
    assert ask(server, method, path, body)[0] == status
    assert ask(server, "GET", "/")[0] == 200


def test_a_size_of_gigabytes_is_refused_before_it_is_sent(server: draw.Server) -> None:
    with socket.create_connection((draw.HOST, server.server_port), timeout=20) as connection:
        host = f"127.0.0.1:{server.server_port}"
        request = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999999999\r\n\r\n"
        connection.sendall(request.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_taken_port_is_one_line(server: draw.Server, digits: Digits) -> None:
    ended = digits("draw", "--port", str(server.server_port), *ridge.choice())
    assert (ended.code, ended.lines) == (2, [])
    assert ended.error.count("\n") == 1
    assert f"port {server.server_port} is taken" in ended.error
    assert "--port" in ended.error


def test_ctrl_c_ends_it(graph: Graph, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: draw.Server) -> None:
        raise KeyboardInterrupt

    opened: list[str] = []
    monkeypatch.setattr(draw.Server, "serve_forever", interrupted)
    monkeypatch.setattr(draw, "_open", opened.append)
    ended = digits("draw", "--port", "0", *ridge.choice())
    assert (ended.code, ended.error) == (0, "")
    assert ended.lines[-1] == "stopped"
    assert len(opened) == 1
    assert f"draw at {opened[0]}" in "\n".join(ended.lines)


@pytest.mark.parametrize(("name", "opens"), [("firefox", True), ("/usr/bin/w3m", False)])
def test_a_text_browser_is_never_started(
    name: str, opens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    browser = SimpleNamespace(name=name, open=opened.append)
    monkeypatch.setattr("webbrowser.get", lambda: browser)
    draw._open("http://127.0.0.1:8765/")
    assert opened == ["http://127.0.0.1:8765/"] * opens


# --- in a browser ---------------------------------------------------------------------------------


LABEL = "document.body.dataset.label"
ANSWERED = "document.body.dataset.milliseconds !== undefined"


def place(page: Page, x: float, y: float) -> tuple[float, float]:
    """A place on the canvas, given in shares of it, in the window."""
    left, top, width = page.run(
        "(() => { const { left, top, width } = canvas.getBoundingClientRect(); "
        "return [left, top, width]; })()"
    )
    return left + x * width, top + y * width


def stroke(page: Page, points: Sequence[tuple[float, float]]) -> None:
    """Draw a stroke with the mouse, in steps."""
    path = [
        (x0 + (x1 - x0) * step / 8, y0 + (y1 - y0) * step / 8)
        for (x0, y0), (x1, y1) in itertools.pairwise(points)
        for step in range(9)
    ]
    places = [place(page, x, y) for x, y in path]
    for kind, (x, y) in [
        ("mousePressed", places[0]),
        *(("mouseMoved", at) for at in places[1:]),
        ("mouseReleased", places[-1]),
    ]:
        page.send(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1
        )


def test_a_seven_drawn_with_the_mouse_is_a_seven(server: draw.Server, page: Page) -> None:
    page.open(server.address)
    assert page.run("document.querySelectorAll('#bars li').length") == 10
    stroke(page, BAR)
    stroke(page, LEG)
    page.wait_for(f"{LABEL} === '7' && {ANSWERED}")
    bars = "[...document.querySelectorAll('#bars i')]"
    widths = page.run(f"{bars}.map((bar) => parseFloat(bar.style.width))")
    assert np.argmax(widths) == 7
    assert sum(widths) == pytest.approx(100, abs=0.1)
    assert page.run("document.getElementById('sure').textContent").startswith("7, probability 0.")
    assert page.run("document.querySelectorAll('#nearest li').length") == draw.NEAREST
    seen = "document.getElementById('seen').getContext('2d').getImageData(0, 0, 28, 28).data"
    assert page.run(f"new Set({seen}).size") > 5
    page.run("document.getElementById('undo').click()")
    page.run("document.getElementById('undo').click()")
    page.wait_for(f"{LABEL} === ''")
    assert page.run("document.getElementById('clear').disabled")
    assert page.complaints() == []
    assert {address.removeprefix(server.address) for address in page.requests()} <= {"", "predict"}


def test_a_seven_drawn_with_the_keyboard_is_a_seven(server: draw.Server, page: Page) -> None:
    page.open(server.address)
    page.run("canvas.focus()")
    keys = ["ArrowLeft"] * 6 + [" "] + ["ArrowRight"] * 12
    for _ in range(5):
        keys += ["ArrowDown", "ArrowDown", "ArrowDown", "ArrowLeft"]
    for key in [*keys, " "]:
        page.press(key)
    page.wait_for(f"{LABEL} === '7' && {ANSWERED}")
    page.press("Backspace")
    page.wait_for(f"{LABEL} === ''")
    page.press(" ")
    page.press("ArrowDown")
    page.wait_for(f"{LABEL} !== ''")
    page.press("Escape")
    page.wait_for(f"{LABEL} === ''")
    assert page.complaints() == []


def test_a_finger_draws_on_a_phone(server: draw.Server, page: Page) -> None:
    page.open(server.address, 390)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    page.send("Emulation.setTouchEmulationEnabled", enabled=True)
    for points in (BAR, LEG):
        for step, (x, y) in enumerate(place(page, *point) for point in points):
            kind = "touchMove" if step else "touchStart"
            page.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        page.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.send("Emulation.setTouchEmulationEnabled", enabled=False)
    page.wait_for(f"{LABEL} === '7' && {ANSWERED}")
    assert page.run("scrollY") == 0
    assert page.run("strokes.length") == 2
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_ink_is_legible_in_the_dark(server: draw.Server, page: Page) -> None:
    page.open(server.address, dark=True)
    stroke(page, BAR)
    page.wait_for(f"{LABEL} !== ''")
    brightest = page.run(
        "shown.getImageData(0, 0, canvas.width, canvas.height).data.filter((_, i) => i % 4 === 0)"
        ".reduce((most, value) => Math.max(most, value), 0)"
    )
    assert brightest > 200


def test_without_an_answer_no_old_digit_stays(server: draw.Server, page: Page) -> None:
    page.open(server.address)
    outputs = "[...document.querySelectorAll('#bars output')].map((it) => it.textContent).join('')"
    assert page.run(outputs) == ""
    stroke(page, BAR)
    page.wait_for(f"{LABEL} !== '' && {ANSWERED}")
    page.run("window.fetch = () => Promise.reject(new Error('gone'))")
    stroke(page, LEG)
    page.wait_for(f"{LABEL} === ''")
    assert "No answer" in page.run("document.getElementById('sure').textContent")
    assert page.run(outputs) == ""


def test_the_pen_can_be_thinner_and_thicker(server: draw.Server, page: Page) -> None:
    page.open(server.address)
    pixels = "ink.getImageData(0, 0, side, side).data"
    drawn = f"{pixels}.filter((value, i) => i % 4 === 3 && value).length"
    counts = []
    for width in (8, 20, 36):
        page.run(f"document.querySelector('#width input').value = {width}")
        stroke(page, BAR)
        counts.append(page.run(drawn))
        page.run("document.getElementById('clear').click()")
    assert counts[0] < 0.6 * counts[1] < 0.6 * counts[2]
