"""The studio in a real Chromium, driven as a person would: with the real server and avatar."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server_process import READY_S, Started

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
LONG_MS = 1000 * READY_S
WEIGHTY = ("serious", "critical")
QUIET = ("Failed to load resource",)
"""What Chromium itself writes of refusals that the page shows to the user."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    started = Started(tmp_path_factory.mktemp("studio") / "server", "--voice", "hibari")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is missing")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium here: `apt-get install chromium`")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                "--autoplay-policy=no-user-gesture-required",
            ],
            timeout=LONG_MS,
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: Started) -> Iterator[Any]:
    """A page whose console has to stay clean."""
    context = browser.new_context(accept_downloads=True, base_url=server.url)
    context.set_default_timeout(LONG_MS)
    page, errors = context.new_page(), []

    def heard(message: Any) -> None:
        if message.type == "error" and not message.text.startswith(QUIET):
            errors.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def findings(page: Any) -> list[str]:
    """What axe-core finds that weighs."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found if one["impact"] in WEIGHTY
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_part_is_accessible_in_light_and_dark(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    for part in ("dub", "live", "train", "jobs"):
        page.goto(f"/#{part}")
        page.locator(f"dt-{part} .card").first.wait_for()
        assert findings(page) == [], part


def test_nothing_is_wider_than_a_narrow_screen(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    for part in ("dub", "live", "train", "jobs"):
        page.goto(f"/#{part}")
        page.locator(f"dt-{part} .card").first.wait_for()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, part


def test_from_the_samples_to_a_dub_and_a_repainted_span(page: Any, server: Started) -> None:
    page.goto("/")
    page.get_by_role("button", name="Use the samples").click()
    page.get_by_role("button", name="Preview landmarks").click()
    timeline = page.locator("dt-timeline")
    timeline.locator("canvas.curve").wait_for()
    page.get_by_role("button", name="Dub").click()
    page.wait_for_function("location.hash.startsWith('#dub/')")
    page.locator("progress:visible").first.wait_for()
    page.reload()  # in the middle: the job goes on, and the page finds it again
    link = page.get_by_role("link", name="Download the video")
    link.wait_for()
    page.wait_for_function("document.querySelectorAll('video')[1].currentTime > 0.2")
    with page.expect_download() as download:
        link.click()
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"

    curve = timeline.locator("canvas.curve")
    curve.scroll_into_view_if_needed()
    before = float(curve.get_attribute("aria-valuenow"))
    box = curve.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.4 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], y - 30, steps=4)
    page.mouse.up()
    curve.press("ArrowRight")
    curve.press("ArrowUp")
    assert float(curve.get_attribute("aria-valuenow")) != before
    repaint = page.get_by_role("button", name="Repaint what changed")
    old = page.evaluate("location.hash")
    repaint.click()
    page.wait_for_function("old => location.hash !== old", arg=old)
    name = page.evaluate("location.hash").partition("/")[2]
    ended = server.end_of(name)
    assert ended["state"] == "succeeded", ended["error"]
    assert ended["request"]["base"] == old.partition("/")[2]
    assert any(x is not None for x in ended["request"]["opening"])


def test_a_failure_is_told_with_what_to_do(page: Any, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no video" * 1000)
    page.goto("/#dub")
    page.get_by_role("button", name="Use the samples").click()
    page.get_by_label("Footage").first.set_input_files(damaged)
    page.locator("dt-file .name", has_text="damaged.mp4").wait_for()
    page.get_by_role("button", name="Preview landmarks").click()
    told = page.locator("dt-dub .bar .wrong")
    told.wait_for()
    assert "To do:" in told.text_content()


def test_a_typed_text_is_spoken_live(page: Any) -> None:
    page.goto("/#live")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("Connected.", exact=True).wait_for()
    page.get_by_role("button", name="Use the microphone").click()
    page.get_by_label("Say", exact=True).fill("Good morning.")
    page.get_by_role("button", name="Say it").click()
    page.wait_for_function("Number(document.querySelector('canvas.live').dataset.frames) > 10")
    page.get_by_role("button", name="Interrupt").click()
    page.get_by_text("Interrupted.").wait_for()
    page.get_by_role("button", name="Stop").click()
    assert page.get_by_text(re.compile("^Not connected")).is_visible()


def test_training_wants_consent_in_words(page: Any, server: Started) -> None:
    page.goto("/#train")
    files = page.get_by_label("Footage of one person")
    files.set_input_files({"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"x" * 100})
    page.locator("dt-file .name").wait_for()
    page.get_by_role("button", name="Train").click()
    page.get_by_text("Say who agreed to this avatar").wait_for()
    jobs = server.http.get("/v1/jobs").json()
    assert [job for job in jobs if job["kind"] == "train"] == []
