"""Headless Chromium, spoken to over two pipes: the DevTools protocol needs no port and no package.

Run as a program, it prints where Chromium is, or fails and says how to get it.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
MISSING = "no Chromium: install one (apt-get install chromium), or name one in TYNDALL_CHROMIUM"

FLAGS = [
    "--headless=new",
    # Containers rarely let a process make the namespaces that the sandbox wants. Only pages of the
    # tests are opened.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-pipe",
    "about:blank",
]

# Waits inside the page until an expression is true.
UNTIL = """(async () => {
  const end = performance.now() + %d;
  for (;;) {
    const value = await (%s);
    if (value) return true;
    if (performance.now() > end) return false;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
})()"""


def find() -> str | None:
    """The program to start, if there is one."""
    found = filter(None, map(shutil.which, [os.environ.get("TYNDALL_CHROMIUM", ""), *NAMES]))
    # Some systems have a script of that name that only says where to get one.
    return next((path for path in found if works(path)), None)


def works(path: str) -> bool:
    return subprocess.run([path, "--version"], capture_output=True).returncode == 0


class Browser:
    """A running Chromium with a profile of its own."""

    def __init__(self, profile: Path):
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        # The protocol's pipes are the file descriptors 3 and 4.
        shell = f'exec "$@" 3<&{read} 4>&{write}'
        command = ["bash", "-c", shell, "bash", find(), f"--user-data-dir={profile}", *FLAGS]
        with (profile / "log").open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(read, write)
            )
        os.close(read)
        os.close(write)
        self._rest = b""
        self._id = 0
        self.events: list[dict] = []

    def call(self, method: str, session: str | None = None, **params) -> dict:
        """Sends a command and waits for its result; events that come meanwhile are kept."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            data = os.read(self._read, 1 << 16)
            assert data, "Chromium has ended; its log is in its profile"
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, url: str) -> "Page":
        """A page in a context of its own, which shares nothing with others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, target["targetId"], attached["sessionId"])
        for domain in ["Page", "Runtime", "Log", "Network"]:
            page.call(f"{domain}.enable")
        page.call("Page.navigate", url=url)
        page.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")
        return page

    def close(self):
        self.call("Browser.close")
        self._process.wait(20)
        os.close(self._read)
        os.close(self._write)


class Page:
    """A tab."""

    def __init__(self, browser: Browser, target: str, session: str):
        self.browser = browser
        self.target = target
        self.session = session

    def call(self, method: str, **params) -> dict:
        return self.browser.call(method, self.session, **params)

    def run(self, script: str):
        """The value of an expression of JavaScript, waited for where it is a promise."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script: str, deadline_s: int = 60):
        """Waits until an expression is true."""
        is_true = self.run(UNTIL % (deadline_s * 1000, script))
        assert is_true, f"not within {deadline_s} s: {script}\n{self.run('document.body.innerText')}"

    def press(self, key: str):
        """Presses a key as a person does."""
        text = "\r" if key == "Enter" else None
        code = {"Enter": 13, "Escape": 27}[key]
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text: str):
        """Types into what has the focus."""
        self.call("Input.insertText", text=text)

    def size(self, width: int, height: int):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def scheme(self, scheme: str):
        """Light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)

    def screenshot(self, path: Path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def told(self, method: str) -> list[dict]:
        """Events of this page so far."""
        self.run("0")
        mine = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [event["params"] for event in mine if event["method"] == method]

    def errors(self) -> list[str]:
        """What a console would show in red."""
        logged = [event["entry"] for event in self.told("Log.entryAdded")]
        errors = [entry["text"] for entry in logged if entry["level"] == "error"]
        console = [event for event in self.told("Runtime.consoleAPICalled") if event["type"] == "error"]
        return errors + console + self.told("Runtime.exceptionThrown")

    def requested(self) -> list[str]:
        """The addresses that the page asked for."""
        return [event["request"]["url"] for event in self.told("Network.requestWillBeSent")]


if __name__ == "__main__":
    path = find()
    sys.exit(print(path) if path else MISSING)
