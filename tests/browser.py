"""A real browser, driven through its debugging pipe: Debian's chromium, without a window.

Messages are JSON, ended by a zero byte: https://chromedevtools.github.io/devtools-protocol/
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Page:
    """One page, and what it said and asked for since it was opened."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.to_browser, self.from_browser = to_browser, from_browser
        self.buffer, self.count, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Give a command; returns its result, and keeps the events that come before it."""
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            received = os.read(self.from_browser, 1 << 20)
            assert received, "the browser has ended"
            self.buffer += received
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path | str, width: int = 1000, dark: bool = False) -> None:
        """Show a file or an address, and wait until its own script says that it is ready."""
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        self.wait_for("document.readyState === 'complete' && document.body.dataset.ready === 'yes'")

    def wait_for(self, condition: str) -> None:
        """Return as soon as a JavaScript expression is true; fail if it is not within seconds."""
        for _ in range(200):
            if self.run(condition):
                return
            self.run("new Promise((go) => setTimeout(go, 50))")
        raise AssertionError(f"never true: {condition}; the page says: {self.complaints()}")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, as a user would."""
        codes = {"Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def complaints(self) -> list[str]:
        """Errors and warnings on the console since the page was opened."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [json.dumps(e["params"]) for e in self.events if e.get("method") in kinds]

    def requests(self) -> list[str]:
        """Addresses that were asked for, but for the page itself and what it carries within it."""
        sent = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        addresses = [params["request"]["url"] for params in sent]
        return [url for url in addresses if not url.startswith(("file:", "data:"))]


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A page in a browser of its own, which ends with the block."""
    assert CHROMIUM
    read_commands, write_commands = os.pipe()
    read_answers, write_answers = os.pipe()
    # The browser takes commands on descriptor 3 and answers on 4.
    command = [
        *("bash", "-c", f'exec "$@" 3<&{read_commands} 4>&{write_answers}', "bash", CHROMIUM),
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-dev-shm-usage"),
        *("--remote-debugging-pipe", f"--user-data-dir={profile}"),
    ]
    process = subprocess.Popen(
        command, pass_fds=(read_commands, write_answers), stderr=subprocess.DEVNULL
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Page(write_commands, read_answers)
    finally:
        os.close(write_commands)
        os.close(read_answers)
        process.terminate()
        process.wait(20)
