"Drives a headless Chromium through its own pipe: no library, no port, no network."

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-extensions", "--remote-debugging-pipe"]
PATIENCE = 20  # seconds for one answer; a busy machine takes some
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}


def find_browser() -> str | None:
    "A Chromium of this machine."
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    "One Chromium with one tab. Collects what the page asks for and what it complains about."

    def __init__(self, binary: str, profile: Path):
        (commands, self._write), (self._read, answers) = os.pipe(), os.pipe()
        # Chromium reads commands from file descriptor 3 and answers on 4; ours are moved away from both before.
        there, here = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (commands, answers))
        command = ["bash", "-c", f'exec "$@" 3<&{there} 4>&{here} {there}<&- {here}>&-', "chromium",
                   binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=(there, here), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in (commands, answers, there, here):
            os.close(fd)
        self._rest, self._count, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        [page] = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        "End it and its children."
        self._session = None
        self.call("Browser.close")
        self.process.wait(PATIENCE)
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **params) -> dict[str, Any]:
        "One command of the DevTools protocol and its result."
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | ({"sessionId": self._session} if self._session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("id") == self._count:
                assert "error" not in got, f"{method}: {got['error']}"
                return got["result"]
            self.events.append(got)

    def _next(self) -> dict[str, Any]:
        "The next message from the browser."
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], PATIENCE)
            piece = os.read(self._read, 2**16) if ready else b""
            assert piece, "the browser has gone silent"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def run(self, code: str) -> Any:
        "The value of an expression in the page; promises are awaited."
        done = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, code: str, patience: float = PATIENCE) -> Any:
        "Wait until an expression is true."
        deadline = time.monotonic() + patience
        while not (value := self.run(code)):
            assert time.monotonic() < deadline, f"never true: {code}\n{self.run('document.body.innerText')[:3000]}"
            time.sleep(.03)
        return value

    def open(self, url: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        "Load a page in a window of that size; what was collected before is forgotten."
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def press(self, key: str, shift: bool = False) -> None:
        "One key down and up."
        text = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else None)
        what = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper())), "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **what, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def click(self, selector: str) -> None:
        "A real click in the middle of an element."
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def middle(self, selector: str) -> tuple[float, float]:
        "Where an element is on the screen, once it has been scrolled there."
        return tuple(self.run(f"""(() => {{ const e = document.querySelector({json.dumps(selector)})
            e.scrollIntoView({{block: 'center', behavior: 'instant'}})
            const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] }})()"""))

    def drop(self, selector: str, *files: Path) -> None:
        "Drop files onto an element as from a file manager."
        x, y = self.middle(selector)
        data = {"items": [], "files": [str(f) for f in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, selector: str, *files: Path) -> None:
        "Choose files in a file field."
        node = self.call("DOM.querySelector", nodeId=self.call("DOM.getDocument")["root"]["nodeId"], selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(f) for f in files])

    def paste(self, selector: str, text: str) -> None:
        "Paste into an emptied field, through the clipboard."
        field = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{field}.focus(); {field}.value = {json.dumps(text)}; {field}.select()")
        for key, command in (("c", "copy"), ("Delete", "deleteBackward"), ("v", "paste")):
            self.call("Input.dispatchKeyEvent", type="rawKeyDown", key=key, commands=[command])
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def keep_downloads(self, folder: Path) -> None:
        "Save what the page hands out in a folder."
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def downloaded(self, path: Path) -> Any:
        "The JSON in a file, once it is there."
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            assert time.monotonic() < deadline, f"{path.name} never came"
            time.sleep(.03)
        return json.loads(path.read_text())

    def _seen(self, method: str, pick: Callable[[dict], Any]) -> list[Any]:
        self.run("0")  # whatever has happened is read
        return [pick(e["params"]) for e in self.events if e["method"] == method]

    def requests(self) -> list[str]:
        "Addresses that the page has asked for."
        return self._seen("Network.requestWillBeSent", lambda p: p["request"]["url"])

    def complaints(self) -> list[str]:
        "Errors and warnings in the console, broken policies among them; refusals of the service are none."
        said = self._seen("Runtime.consoleAPICalled", lambda p: f"{p['type']}: {p['args']}")
        thrown = self._seen("Runtime.exceptionThrown", lambda p: str(p["exceptionDetails"]))
        logged = self._seen("Log.entryAdded", lambda p: p["entry"])
        return said + thrown + [e["text"] for e in logged if not ("status of 4" in e["text"] and "/v1/" in e.get("url", ""))]

    def picture(self, path: Path, whole: bool = True) -> None:
        "Save a screenshot, of the whole page or of what the window shows."
        size = self.run("({width: innerWidth, height: document.documentElement.scrollHeight})")
        clip = {"clip": {"x": 0, "y": 0, "scale": 1, **size}} if whole else {}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole, **clip)["data"]))
