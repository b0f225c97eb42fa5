"""`digits draw`: a page to draw a digit on, and what the networks make of it.

The server listens on loopback only, and answers to nobody but the page that it served itself: a
request that names another host (as after DNS rebinding) or comes from another site is refused.
"""

import base64
import contextlib
import errno
import json
import re
import threading
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from pipeline import artifacts
from pipeline.endings import explained
from pipeline.errors import UserError
from pipeline.nearest import Nearest
from pipeline.predict import find
from pipeline.predict.model import Networks
from pipeline.predict.normalise import normalise
from pipeline.stages import Graph

HOST = "127.0.0.1"
# What a browser calls this machine, with any port: that of a tunnel may be another.
LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
# Browsers that run in the terminal, where they would take the place of the server.
TEXT_BROWSERS = ("browsh", "elinks", "links", "links2", "lynx", "w3m", "www-browser")
# The page sends the ink of its canvas, a byte for each of SIDE × SIDE pixels.
SIDE = 280
NEAREST = 6
PAGE = Path(__file__).with_name("draw.html")
# The page brings everything with it, and may ask its own server only.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Answers:
    """What the networks of an ensemble say of a drawing."""

    def __init__(self, graph: Graph) -> None:
        """Load the networks and the training digits."""
        preprocess = graph.task("preprocess").writes
        self._images = np.load(preprocess["train_images"], mmap_mode="r")
        self._labels = np.load(preprocess["train_labels"])
        self._nearest = Nearest(self._images)
        self._networks = Networks(graph, often=True)
        self._lock = threading.Lock()
        metrics = artifacts.metadata(graph.task("ensemble").manifest)
        self.about = {
            "title": f"{graph.dataset.name}, {graph.preset.name}",
            "accuracy": metrics["oof_accuracy"],
            "networks": len(self._networks.names),
            "names": self._networks.class_names,
            "side": SIDE,
            "choice": f"--dataset {graph.dataset.name} --config {graph.preset.name}",
        }
        self.answer(np.pad(np.full((9, 9), 255, np.uint8), 9))  # the first one takes longest

    def answer(self, ink: NDArray[np.uint8]) -> dict[str, Any]:
        """Predict a drawing, uint8 (h, w), 255 is ink; only {"empty": true} of an empty one.

        Returns:
            For JSON: the digit that the networks see, as base64 of 28 × 28 bytes; the ensemble's
            probabilities; each network's label with its own probability; the nearest training
            digits; and whether even those are far.
        """
        try:
            digit = normalise(find.whole(np.asarray(ink / 255, dtype=np.float32), 0.5))
        except UserError:
            return {"empty": True}
        with self._lock:
            [mean], [each] = self._networks.predict(digit[np.newaxis])
        [rows], [distances] = self._nearest.search(digit[np.newaxis, ..., np.newaxis], NEAREST)
        return {
            "digit": _text(digit),
            "probabilities": [round(float(value), 5) for value in mean],
            "networks": [
                {
                    "name": name,
                    "label": int(own.argmax()),
                    "probability": round(float(own.max()), 4),
                }
                for name, own in zip(self._networks.names, each, strict=True)
            ],
            "nearest": [
                {
                    "row": int(row) + 1,
                    "label": int(self._labels[row]),
                    "distance": round(float(distance), 1),
                    "digit": _text(self._images[row]),
                }
                for row, distance in zip(rows, distances, strict=True)
            ],
            "far": bool(distances[0] > self._nearest.far),
        }


def _text(digit: NDArray[np.uint8]) -> str:
    return base64.b64encode(digit.tobytes()).decode()


class Server(ThreadingHTTPServer):
    """Serves the page, and answers it."""

    daemon_threads = True
    answers: Answers
    page: bytes

    def __init__(self, port: int) -> None:
        """Take a port of loopback; 0 takes any free one. Raises UserError if it is taken."""
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"port {port} is taken; give another one with --port, or --port 0 for any"
                ) from error
            raise UserError(explained(error, f"port {port}")) from error
        self.address = f"http://{HOST}:{self.server_port}/"

    def load(self, graph: Graph) -> None:
        """Load everything that answers need."""
        self.answers = Answers(graph)
        template = jinja2.Template(PAGE.read_text(encoding="utf-8"), autoescape=True)
        self.page = template.render(about=self.answers.about).encode()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that went away; `Handler` reports other errors."""


class Handler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: Server
    protocol_version = "HTTP/1.1"  # connections stay open between strokes
    timeout = 60
    # An answer leaves at once and in one piece: Nagle's algorithm would cost up to 40 ms.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        """Send the page."""
        if not self._allowed():
            return
        if self.path != "/":
            self._send(HTTPStatus.NOT_FOUND, b"there is only /", "text/plain")
            return
        self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        """Answer a drawing of SIDE × SIDE bytes."""
        if not self._allowed():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/predict" or length != str(SIDE * SIDE):
            wrong = f"send {SIDE * SIDE} bytes to /predict".encode()
            self._send(HTTPStatus.BAD_REQUEST, wrong, "text/plain")
            return
        ink = np.frombuffer(self.rfile.read(SIDE * SIDE), np.uint8)
        if len(ink) < SIDE * SIDE:
            self.close_connection = True
            return
        try:
            answer = self.server.answers.answer(ink.reshape(SIDE, SIDE))
        except Exception as error:
            print(f"digits: {type(error).__name__}: {' '.join(str(error).split())}")
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the terminal", "text/plain")
            return
        self._send(HTTPStatus.OK, json.dumps(answer).encode(), "application/json")

    def _allowed(self) -> bool:
        """Check that a request is for this server and from its own page; else refuse it."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        own = origin is None or origin.removeprefix("http://") == host
        if host and LOOPBACK.fullmatch(host) and own:
            return True
        self._send(HTTPStatus.FORBIDDEN, b"only the page of this server may ask", "text/plain")
        return False

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        if status != HTTPStatus.OK:
            self.close_connection = True  # what else was sent is not read
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print no requests."""


def draw(graph: Graph, port: int, browser: bool) -> None:
    """Serve the page until Ctrl-C.

    Args:
        graph: whose networks are to predict.
        port: of loopback; 0 for any that is free.
        browser: open the page in the user's browser.

    Raises:
        UserError: there are no networks, or the port is taken.
    """
    graph.ensemble()
    with Server(port) as server:
        print("loading the networks", flush=True)
        server.load(graph)
        print(f"draw at {server.address}  (Ctrl-C ends it)", flush=True)
        if browser:
            threading.Thread(target=_open, args=(server.address,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
        print("stopped", flush=True)


def _open(address: str) -> None:
    """Open the user's browser, unless there is none or it is a text browser."""
    with contextlib.suppress(webbrowser.Error):
        browser = webbrowser.get()
        if Path(getattr(browser, "name", "")).name not in TEXT_BROWSERS:
            browser.open(address)
