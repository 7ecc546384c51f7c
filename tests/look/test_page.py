"""The report in headless Chromium: every panel, the keyboard, a phone. Screenshots go to FACEATLAS_SCREENSHOTS."""

import os
import shutil
from pathlib import Path

import pytest
import squares

from jobs.commands.report import write_report
from pipeline.storage.output import open_output

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
PANELS = ["done", "quarantine", "people", "pairs", "clip", "distributions"]


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which drives the browser")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = os.environ.get("FACEATLAS_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("needs a Chromium on the path, or FACEATLAS_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(out, tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "report.html"
    write_report(out, str(page), ["both", "red"])
    return page


@pytest.fixture
def visit(browser):
    """visit(page, width, height): an open tab; whatever goes wrong in it fails the test."""
    problems, tabs = [], []

    def open_tab(path, width=1200, height=900):
        tab = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        tab.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
        tab.goto(path.as_uri())
        tabs.append(tab)
        return tab

    yield open_tab
    for tab in tabs:
        tab.close()
    assert not problems


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    folder = Path(os.environ.get("FACEATLAS_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_every_panel_shows_what_the_tables_hold(report, visit, artefacts):
    tab = visit(report)
    text = {panel: tab.locator(f"#{panel}").inner_text() for panel in PANELS}
    assert "72" in tab.locator("#totals").inner_text()
    assert "1 GPUs, 4 CPUs" in text["done"]
    assert "Forecast against actual" in text["done"]
    assert "</script>broken" in text["quarantine"]
    assert "<b>not</b> bold" in text["quarantine"]
    assert "<i>Green</i>" in text["people"]
    assert "person 1 (aaaaaaaa)" in text["pairs"]
    assert tab.locator("#gallery img").count() == 2
    assert tab.locator("#clip-charts canvas").count() == 5
    assert tab.locator("#charts svg").count() == 9
    tab.screenshot(path=artefacts / "report.png", full_page=True)
    assert (artefacts / "report.png").stat().st_size > 20_000


def test_the_charts_are_drawn(report, visit):
    tab = visit(report)
    painted = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 === 3 && v > 0)"
    for canvas in tab.locator("#clip-charts canvas").all():
        assert canvas.evaluate(painted), canvas.get_attribute("aria-label")


def test_the_frame_under_the_cursor_follows_keys_and_pointer(report, visit):
    tab = visit(report)
    cursor = tab.locator("#clip-cursor")
    assert "frame 0: person 1, <i>Green</i>" in tab.locator("#clip-readout").inner_text()
    cursor.focus()
    for _ in range(12):
        tab.keyboard.press("ArrowRight")
    assert "frame 12:" in tab.locator("#clip-readout").inner_text()
    assert "AU12 0.5" in tab.locator("#clip-readout").inner_text()
    assert tab.locator("#clip-frame").get_attribute("alt") == "Frame 12 of both"
    canvas = tab.locator("#clip-charts canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    tab.mouse.click(box["x"] + box["width"] - 1, box["y"] + 5)
    assert cursor.input_value() == "23"


def test_choosing_a_clip_and_a_face_changes_the_charts(report, visit):
    tab = visit(report)
    tab.locator("#clip-person").select_option(index=1)
    assert "<i>Green</i>" in tab.locator("#clip-charts canvas").nth(1).get_attribute("aria-label")
    tab.locator("#clip-choice").select_option(label="red")
    assert tab.locator("#clip-readout").inner_text().startswith("frame 0: person 1")
    assert tab.locator("#clip-person option").count() == 1


def test_all_controls_are_reached_by_tab_and_have_names(report, visit):
    tab = visit(report)
    seen = []
    for _ in range(60):
        tab.keyboard.press("Tab")
        seen.append(tab.evaluate("document.activeElement.id || document.activeElement.className"))
    assert seen[0] == "skip"
    assert {"people-find", "people-order", "clip-choice", "clip-person", "clip-cursor"} <= set(seen)
    tree = tab.locator("body").aria_snapshot()
    for name in ('searchbox "Find"', 'combobox "Clip"', 'combobox "Face"', 'slider "Frame under the cursor"'):
        assert name in tree
    unnamed = "e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.alt || e.labels?.length)"
    for element in tab.locator("canvas, svg, input, select, section, nav, img:visible").all():
        assert not element.evaluate(unnamed), element.evaluate("e => e.outerHTML.slice(0, 200)")
    assert tab.locator("table").count() == tab.locator("table:has(caption)").count() > 5


def test_on_a_phone_nothing_is_cut_off(report, visit, artefacts):
    tab = visit(report, 360, 740)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    for button in tab.locator("button, input, select").all():
        assert button.bounding_box()["height"] >= 40 or button.get_attribute("type") == "range"
    tab.screenshot(path=artefacts / "report_phone.png", full_page=True)


def test_ten_thousand_people_are_paged_found_and_ordered(visit, tmp_path):
    out = squares.write_output(tmp_path)
    people = [
        {"identity_id": f"{i:016x}", "tracks": 1, "clips": 1, "faces": 1 + i, "cohesion": 0.5, "name": f"Nr {i}"}
        for i in range(10_000)
    ]
    squares.write_snapshot(open_output(out), [], people, [])
    write_report(out, str(tmp_path / "report.html"))
    tab = visit(tmp_path / "report.html")
    assert tab.locator("#gallery li").count() == 60
    assert tab.locator("#people-page").inner_text() == "page 1 of 167"
    assert tab.locator("#gallery h3").first.inner_text() == "Nr 9999"
    tab.locator("#people-next").focus()
    tab.keyboard.press("Enter")
    assert tab.locator("#gallery h3").first.inner_text() == "Nr 9939"
    tab.locator("#people-order").select_option("name")
    assert tab.locator("#gallery h3").first.inner_text() == "Nr 0"
    tab.locator("#people-find").fill("nr 77")
    assert tab.locator("#people-count").inner_text().startswith("111 of 10,000 people")
    took = tab.evaluate("() => { const t = performance.now(); fillPeople(); return performance.now() - t; }")
    assert took < 500


def test_without_faces_no_picture_is_on_the_page(out, visit, tmp_path):
    write_report(out, str(tmp_path / "report.html"), with_faces=False)
    tab = visit(tmp_path / "report.html")
    assert tab.locator("img:visible").count() == 0
    assert tab.locator("#gallery li").count() == 2
