import dataclasses
import json
import re
import shutil
import subprocess

import pytest
from report_records import MACHINE, make_profile, make_result

from kopt.core.records.profiles.full import FullProfile
from kopt.report import html, profile_html, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")]


# What sticks out: tables and figures that need scrolling, and words of a plot beyond its border.
PROBE = """<script>
const boxes = document.querySelectorAll(".scroll, figure, .tile .value");
const out = [...boxes].filter(box => box.scrollWidth > box.clientWidth);
const cut = [...document.querySelectorAll("svg text")].filter(
  text => text.getBoundingClientRect().right > text.ownerSVGElement.getBoundingClientRect().right + 1);
document.title = JSON.stringify([out.map(box => box.className), cut.map(text => text.textContent)]);
</script></html>"""
RUNTIMES = {
    "Keras": "Keras 3.15.1 on TensorFlow 2.21.0",
    "LiteRT": "LiteRT 2.3.0",
    "ONNX Runtime": "ONNX Runtime 1.31.1 CPUExecutionProvider",
}


def with_long_names(result):
    def longer(candidate, runtime=None):
        if candidate.measurement is None:
            return candidate
        runtime = runtime or RUNTIMES[candidate.measurement.runtime]
        measurement = dataclasses.replace(candidate.measurement, runtime=runtime, energy=None)
        return dataclasses.replace(candidate, name=f"tflite-{candidate.name}", measurement=measurement)

    served = longer(dataclasses.replace(result.candidates[0], name="served"), "TensorFlow 2.21.0 SavedModel")
    candidates = (*map(longer, result.candidates), served)
    return dataclasses.replace(result, baseline=longer(result.baseline), candidates=candidates)


def sticking_out(text, folder, width):
    page = folder / "probed.html"
    page.write_text(text.replace("</html>", PROBE))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},1200", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return json.loads(re.search("<title>(.*?)</title>", dom).group(1))


@pytest.mark.parametrize("width", [1280, 800])
def test_everything_fits_beside_each_other(tmp_path, width):
    assert sticking_out(html(with_long_names(make_result())), tmp_path, width) == [[], []]


@pytest.mark.parametrize("width", [1280, 1000, 900])
def test_numbers_fit_into_their_tiles(tmp_path, width):
    text, count = re.subn(r'(<dd class="value[^>]*>)[^<]*', r"\g<1>-0.00 points", html(make_result()))
    assert count >= 3
    assert "value" not in sticking_out(text, tmp_path, width)[0]


def test_the_probe_would_have_told(tmp_path):
    svg = "<svg width='50' height='20'><text x='20' y='10'>far too long</text></svg>"
    page = f"<title></title><div class='scroll' style='overflow-x: auto'><p style='width: 3000px'>wide</p></div>{svg}"
    assert sticking_out(page + "</html>", tmp_path, 800) == [["scroll"], ["far too long"]]


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
def test_the_page_of_a_profile_fits_and_asks_for_nothing(tmp_path, width):
    costs = make_profile(30)
    long = [dataclasses.replace(layer, name=f"backbone/very_long_stage_name/{layer.name}") for layer in costs.layers]
    costs = dataclasses.replace(costs, layers=tuple(long))
    missing = dict.fromkeys(("gradients", "sensitivity"), "There is no loss: compile the model, or pass `loss`.")
    profile = FullProfile(costs.model, costs, None, None, None, None, None, None, missing, MACHINE, 3.0)
    page = tmp_path / "profile.html"
    page.write_text(profile_html(profile))
    assert "CONSOLE" not in browse(page, tmp_path, width)
    assert requested(tmp_path / "net.json") == set()
    if width > 800:
        assert sticking_out(profile_html(profile), tmp_path, width) == [[], []]


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
