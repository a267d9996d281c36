"""A real browser without a window: what a page looks like to it."""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--enable-logging=stderr", "--v=0",
)  # fmt: skip

# The page in frames of several widths, since a window has a smallest one; what the probe finds is left in the document.
FRAMES = """<!doctype html><meta charset="utf-8"><body style="margin:0"><script>
const page = %(page)s, widths = %(widths)s, found = {};
const probe = %(probe)s;
let waiting = widths.length;
for (const width of widths) {
  const frame = document.createElement("iframe");
  Object.assign(frame, {width, height: 900, srcdoc: page});
  frame.style.border = 0;
  frame.onload = () => {
    try { found[width] = probe(frame.contentWindow, frame.contentDocument); }
    catch (error) { found[width] = {error: String(error.stack)}; }
    if (--waiting === 0) {
      document.body.replaceChildren();
      const result = document.createElement("pre");
      result.id = "found";
      result.textContent = JSON.stringify(found);
      document.body.append(result);
    }
  };
  document.body.append(frame);
}
</script>"""


@functools.cache
def find():
    """The path of a browser that shows files; the test is skipped where there is none."""
    given = os.environ.get("JAXKD_BROWSER")
    path = shutil.which(given) if given else next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs a browser: install chromium, or set JAXKD_BROWSER to its path")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "trial.html"
        file.write_text("<p>it starts</p>")
        done = start(path, folder, "--dump-dom", file.as_uri())
    if "it starts" not in done.stdout:
        pytest.skip(f"{path} shows no file: {done.stderr[-300:]}")
    return path


def inspect(page, probe, widths, *flags):
    """Shows a page in frames of some widths.

    Args:
      page: HTML.
      probe: a JavaScript function of a frame's window and document.
      widths: in pixels.
      *flags: others for the browser.

    Returns:
      What the function returned, by width, and everything the browser said on its console.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "frames.html"
        texts = {"page": page, "widths": widths, "probe": None}
        texts = {name: json.dumps(value).replace("</", "<\\/") for name, value in texts.items()}
        file.write_text(FRAMES % {**texts, "probe": probe}, encoding="utf-8")
        done = start(find(), folder, *flags, "--virtual-time-budget=10000", "--dump-dom", file.as_uri())
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    result = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result, f"the browser showed nothing: {console}\n{done.stdout[:2000]}"
    text = result[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return {int(width): found for width, found in json.loads(text).items()}, console


def start(path, folder, *arguments):
    """Runs a browser to its end, with a profile of its own."""
    command = [path, *FLAGS, f"--user-data-dir={folder}/profile", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
