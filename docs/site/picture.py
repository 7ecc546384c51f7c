"""Make docs/images/report.jpg from a report of the demo.

faceatlas demo && faceatlas report faceatlas-demo/tables --clip two_people -o report.html
python docs/site/picture.py report.html
"""

import io
import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, sync_playwright

_PICTURE = Path(__file__).resolve().parents[1] / "images" / "report.jpg"
_FRAME, _WIDTH, _SCALE, _GAP = 18, 1000, 1.5, 24


def take_picture(report: Path) -> None:
    """Put the cards of the people and the timeline of the first clip side by side."""
    chromium = os.environ.get("FACEATLAS_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": _WIDTH, "height": 900}, device_scale_factor=_SCALE, reduced_motion="reduce"
        )
        page.goto(report.resolve().as_uri())
        page.locator("#clip-cursor").fill(str(_FRAME))
        cards = [_shot(card) for card in page.locator("#gallery li").all()]
        clip = _shot(page.locator("#clip"))
        # without the slider, its label and the data as a table
        below = page.locator("#clip-cursor").bounding_box()["y"] - page.locator("#clip").bounding_box()["y"]
        browser.close()
    clip = clip.crop((0, 0, clip.width, round((below - _GAP) * _SCALE)))
    left = max(card.width for card in cards) + 2 * _GAP
    height = max(clip.height, sum(card.height + _GAP for card in cards)) + 2 * _GAP
    picture = Image.new("RGB", (left + clip.width + _GAP, height), "white")
    top = _GAP
    for card in cards:
        picture.paste(card, (_GAP, top))
        top += card.height + _GAP
    picture.paste(clip, (left, _GAP))
    picture.save(_PICTURE, quality=85, optimize=True)


def _shot(element: Locator) -> Image.Image:
    return Image.open(io.BytesIO(element.screenshot())).convert("RGB")


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]))
