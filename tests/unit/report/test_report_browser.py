import json
import shutil
import subprocess

import pytest
from report_records import make_result

from kopt.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")]


def browse(page, folder, width):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
        f"--log-net-log={folder / 'net.json'}", f"--window-size={width},1200",
        f"--screenshot={folder / 'page.png'}", page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr


def requested(net_log):
    """What the page asked for: the browser's own housekeeping has no origin that initiated it."""
    events = [event.get("params", {}) for event in json.loads(net_log.read_text())["events"]]
    asked = {event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"}
    return {url for url in asked if not url.startswith(("file:", "data:"))}


@pytest.mark.parametrize("width", [1280, 480])
def test_browser_shows_the_page_without_complaint_or_request(tmp_path, width):
    log = browse(write_report(make_result(), tmp_path), tmp_path, width)
    assert "CONSOLE" not in log
    # A page that failed to render is a blank sheet, which compresses to a few kilobytes.
    assert (tmp_path / "page.png").stat().st_size > 30_000
    assert requested(tmp_path / "net.json") == set()


def test_the_browser_would_have_told(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<img src='http://outside.invalid/x.png'><script>missing()</script>")
    log = browse(page, tmp_path, 480)
    assert "CONSOLE" in log
    assert requested(tmp_path / "net.json") == {"http://outside.invalid/x.png"}
