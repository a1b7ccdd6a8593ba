"""What the tests of pages share: headless Chromium (MOEGRAD_CHROMIUM, or the one that is
installed), driven by the DevTools protocol through a pipe; checks; and how every page must look.
"""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time

LIMIT = 60.0  # seconds for any answer of the browser


class Browser:
    """A page in headless Chromium. `messages`: what it said; `requests`: what it asked for."""

    def __init__(self, program, profile):
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()
        # The browser reads descriptor 3 and writes descriptor 4, which the pipes may have now.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]

        def arrange():
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [program, "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
             "--remote-debugging-pipe", "--hide-scrollbars"],
            preexec_fn=arrange, close_fds=True, pass_fds=(3, 4),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        for end in (to_browser, from_browser, *high):
            os.close(end)
        os.set_blocking(self.read_end, False)
        self.unread, self.number, self.session = b"", 0, None
        self.messages, self.requests, self.loaded = [], [], False
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self):
        self.session = None
        with contextlib.suppress(RuntimeError, OSError):
            self.send("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(LIMIT)
        self.process.kill()
        self.process.wait()
        os.close(self.write_end)
        os.close(self.read_end)

    def receive(self):
        end = time.monotonic() + LIMIT
        while b"\0" not in self.unread:
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError("the browser does not answer")
            with contextlib.suppress(BlockingIOError):
                self.unread += os.read(self.read_end, 1 << 20)
                continue
            time.sleep(0.005)
        text, self.unread = self.unread.split(b"\0", 1)
        message = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(params)[:500])
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        self.loaded |= method == "Page.loadEventFired"
        return message

    def send(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, path):
        self.loaded = False
        self.send("Page.navigate", url=path.as_uri())
        while not self.loaded:
            self.receive()

    def run(self, script):
        """The value of an expression, after the page has drawn what was asked for before."""
        drawn = "new Promise(r => requestAnimationFrame(() => setTimeout(r)))"
        script = f"{drawn}.then(() => ({script}))"
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True,
                           returnByValue=True)  # fmt: skip
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {json.dumps(answer['exceptionDetails'])[:800]}")
        return answer["result"].get("value")

    def press(self, key):
        text = {"Enter": "\r"}.get(key)
        down = {"type": "keyDown", "key": key, "code": key}
        down["windowsVirtualKeyCode"] = {"Tab": 9, "Enter": 13}.get(key, 0)
        self.send("Input.dispatchKeyEvent", **down, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", **(down | {"type": "keyUp"}))

    def point_at(self, script, part=0.5):
        """Moves the pointer into the element, `part` of the way across it."""
        box = self.run(f"(e => {{ e.scrollIntoView({{block: 'center'}}); "
                       f"return e.getBoundingClientRect().toJSON(); }})({script})")  # fmt: skip
        x, y = box["x"] + part * box["width"], box["y"] + 0.5 * box["height"]
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, file, width, scheme="light", media="screen", mobile=False):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)
        # Charts follow the width on the frame after the next.
        self.run("0"), self.run("0")
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(picture["data"]))


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def equal(got, wanted, what):
    check(got == wanted, f"{what}: {got!r} is not {wanted!r}")


def contrast(page):
    """Of the text on its background, as WCAG has it."""
    return page.run("""(() => {
        const light = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const style = getComputedStyle(document.body);
        const [a, b] = [light(style.color), light(style.backgroundColor)];
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), a > b];
    })()""")


def check_looks(page, folder):
    """Leaves screenshots in the folder: light, dark, phone, print (and print.pdf)."""
    page.screenshot(folder / "light.png", 1280)
    ratio, light_on_dark = contrast(page)
    check(ratio > 7 and not light_on_dark, f"contrast {ratio} in light")
    page.screenshot(folder / "dark.png", 1280, scheme="dark")
    ratio, light_on_dark = contrast(page)
    check(ratio > 7 and light_on_dark, f"contrast {ratio} in dark")
    page.screenshot(folder / "phone.png", 390, mobile=True)
    width = page.run("document.documentElement.scrollWidth")
    check(width <= 390, f"{width} wide on a phone of 390")
    on_phone = page.run("document.querySelector('svg[viewBox]')?.viewBox.baseVal.width ?? 0")
    page.screenshot(folder / "print.png", 800, scheme="dark", media="print")
    ratio, light_on_dark = contrast(page)
    check(ratio > 7 and not light_on_dark, f"contrast {ratio} on paper")
    page.send("Emulation.clearDeviceMetricsOverride")
    page.send("Emulation.setEmulatedMedia", media="", features=[])
    pdf = base64.b64decode(page.send("Page.printToPDF", printBackground=True)["data"])
    (folder / "print.pdf").write_bytes(pdf)
    check(pdf.startswith(b"%PDF"), "no PDF")
    return on_phone


def visit(folder, file, *parts):
    """Opens the page and runs each part on it, then `check_looks`; it must say and ask nothing."""
    names = [os.environ.get("MOEGRAD_CHROMIUM", ""), "chromium-headless-shell", "chromium"]
    program = next(filter(None, map(shutil.which, filter(None, names))), None)
    if program is None:
        sys.exit("[browser] there is no Chromium. Run scripts/setup, or set MOEGRAD_CHROMIUM.")
    page = Browser(program, folder / "profile")
    try:
        page.open(file)
        for part in parts:
            part(page)
        equal(page.messages, [], "messages of the console")
        equal(page.requests, [file.as_uri()], "requests")
    finally:
        page.close()
    shutil.rmtree(folder / "profile", ignore_errors=True)
