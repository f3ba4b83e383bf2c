"""The studio in a real Chromium, driven as a person would: with the real server and avatar."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from difftalker.packaged import samples
from server_process import READY_S, Started

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
LONG_MS = 1000 * READY_S
WEIGHTY = ("serious", "critical")
PARTS = ("dub", "live", "train", "jobs")
MOST_CLICKS = 4
COUNT_CLICKS = """
window.clicks = 0;
addEventListener("click", (event) => event.isTrusted && (window.clicks += 1), true);
"""
WORDS = """WEBVTT

00:00.200 --> 00:00.450
My

00:00.450 --> 00:00.900
mouth
"""


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
        api.expect.set_options(timeout=LONG_MS)
        browser = playwright.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
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
    context.add_init_script(COUNT_CLICKS)
    page, errors = context.new_page(), []

    def heard(message: Any) -> None:
        if message.type == "error":
            errors.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def expect(what: Any) -> Any:
    from playwright.sync_api import expect

    return expect(what)


def until(page: Any, good: Callable[[], bool]) -> None:
    """Wait, while the page goes on.

    Playwright's own way evaluates text within the page, which the page's policy forbids.
    """
    end = time.monotonic() + READY_S
    while not good():
        assert time.monotonic() < end
        page.wait_for_timeout(50)


def choose(page: Any, part: str, label: str, path: Path) -> None:
    """Choose a file, and wait until it is there."""
    place = page.locator(f"{part} .drop", has=page.locator(f"strong:text-is('{label}')"))
    place.locator("input[type=file]").set_input_files(path)
    expect(place.locator(".name")).to_have_text(path.name)


def job_of(page: Any) -> str:
    """The job that the address of the page names."""
    page.wait_for_url(re.compile("#(dub|train)/"))
    return str(page.url.rpartition("/")[2])


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
    for part in PARTS:
        page.goto(f"/#{part}")
        page.locator(f"dt-{part} .card").first.wait_for()
        assert findings(page) == [], part


def test_nothing_is_wider_than_a_narrow_screen(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    for part in PARTS:
        page.goto(f"/#{part}")
        page.locator(f"dt-{part} .card").first.wait_for()
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= 360, part


def test_few_clicks_lead_to_a_dubbed_demo_that_survives_a_reload(
    page: Any, server: Started
) -> None:
    page.goto("/")
    page.get_by_role("button", name="Use the samples").click()
    page.get_by_role("button", name="Dub", exact=True).click()
    name = job_of(page)
    page.get_by_role("progressbar", name="Progress of the job").wait_for()
    clicks = page.evaluate("() => window.clicks")
    assert server.see(name)["state"] in ("queued", "running")
    page.reload()  # in the middle: the job goes on, and the page finds it again
    link = page.get_by_role("link", name="Download the video")
    link.wait_for()
    assert clicks <= MOST_CLICKS

    made = page.get_by_label("After: AI-generated")
    expect(made).to_be_visible()
    made.evaluate("video => video.play()")
    until(page, lambda: made.evaluate("video => video.currentTime") > 0.2)
    assert made.evaluate("video => video.videoWidth") == 256
    with page.expect_download() as download:
        link.click()
    wanted = server.http.get(f"/v1/jobs/{name}/result").content
    assert Path(download.value.path()).read_bytes() == wanted
    assert wanted[4:8] == b"ftyp"
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert findings(page) == []
    page.get_by_role("button", name="Read its marks").click()
    page.get_by_text("generated", exact=False).first.wait_for()


def drag(page: Any, curve: Any) -> None:
    """Draw a part of the curve with the pointer."""
    curve.scroll_into_view_if_needed()
    box = curve.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.4 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], y - 30, steps=4)
    page.mouse.up()


def test_uploads_are_looked_at_edited_dubbed_and_repainted(
    page: Any, server: Started, tmp_path: Path
) -> None:
    footage, speech, words = (tmp_path / name for name in ("me.mp4", "said.wav", "said.vtt"))
    shutil.copyfile(samples.footage(), footage)
    shutil.copyfile(samples.speech(), speech)
    words.write_text(WORDS, encoding="utf-8")
    page.goto("/#dub")
    choose(page, "dt-dub", "Footage", footage)
    choose(page, "dt-dub", "Speech", speech)
    page.get_by_text("More choices").click()
    choose(page, "dt-dub", "Words, or none", words)
    page.get_by_role("button", name="Preview landmarks").click()
    curve = page.get_by_role("slider", name="Opening of the mouth")
    curve.wait_for()
    assert page.locator(".words span").all_text_contents() == ["My", "mouth"]
    preview = job_of(page)

    before = float(curve.get_attribute("aria-valuenow"))
    drag(page, curve)
    curve.press("ArrowUp")
    assert float(curve.get_attribute("aria-valuenow")) != before
    page.get_by_role("button", name="Dub", exact=True).click()
    page.wait_for_url(lambda url: preview not in url)
    first = server.end_of(job_of(page))
    assert first["state"] == "succeeded", first["error"]
    assert first["request"]["landmarks"] == preview
    assert any(x is not None for x in first["request"]["opening"])

    repaint = page.get_by_role("button", name="Repaint what changed")
    expect(page.get_by_role("link", name="Download the video")).to_be_visible()
    page.locator(".words span", has_text="mouth").click()  # the span of the edit
    page.get_by_role("button", name="Add the edit").click()
    repaint.click()
    page.wait_for_url(lambda url: first["id"] not in url)
    second = server.end_of(job_of(page))
    assert second["state"] == "succeeded", second["error"]
    assert second["request"]["base"] == first["id"]
    assert second["request"]["edits"] == ["mouth=1.2@0.45-0.9"]
    page.get_by_role("button", name="Side by side").click()
    for label in ("Before", "After: AI-generated"):
        expect(page.get_by_label(label, exact=True)).to_be_visible()


def test_a_face_is_chosen_in_the_picture(page: Any) -> None:
    page.goto("/#dub")
    page.get_by_role("button", name="Use the samples").click()
    page.get_by_text("More choices").click()
    video = page.get_by_label("Before", exact=True)
    expect(video).to_have_js_property("readyState", 4)
    page.get_by_role("button", name="Choose in the picture").click()
    video.click()
    expect(page.get_by_label("Whose face")).to_have_value(re.compile("^upload:"))


def test_a_failure_is_told_with_what_to_do(page: Any, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no video" * 1000)
    page.goto("/#dub")
    page.get_by_role("button", name="Use the samples").click()
    choose(page, "dt-dub", "Footage", damaged)
    page.get_by_role("button", name="Preview landmarks").click()
    told = page.locator("dt-dub .bar .wrong")
    told.wait_for()
    assert "Wanted: a video or sound file" in told.text_content()
    page.get_by_text("Your browser cannot play this file").wait_for()


def test_typed_text_and_the_microphone_speak_live(page: Any) -> None:
    sent: list[bytes] = []

    def watch(data: bytes | str) -> None:
        if isinstance(data, bytes):
            sent.append(data)

    page.on("websocket", lambda socket: socket.on("framesent", watch))
    page.goto("/#live")
    page.get_by_role("button", name="Start").click()
    state = page.locator("dt-live [role=status]")
    expect(state).to_have_text("Connected.")
    page.get_by_label("Say", exact=True).fill("Good morning.")
    page.get_by_role("button", name="Say it").click()
    until(page, lambda: sum(map(len, sent)) > 16_000)
    seen = page.locator("canvas.live")
    until(page, lambda: int(seen.get_attribute("data-frames") or 0) > 10)
    sent.clear()
    page.get_by_role("button", name="Use the microphone").click()
    until(page, lambda: bool(sent))
    page.get_by_role("button", name="Mute the microphone").click()
    page.get_by_role("button", name="Interrupt").click()
    expect(state).to_have_text("Interrupted.")
    page.get_by_role("button", name="Stop").click()
    expect(state).to_have_text("Not connected.")


def test_a_typed_text_becomes_speech_and_a_recording_too(page: Any) -> None:
    page.goto("/#dub")
    page.get_by_label("Text to be spoken").fill("Good morning.")
    page.get_by_role("button", name="Speak the text").click()
    name = page.locator("dt-speech .name")
    expect(name).to_have_text("Good morning.wav")
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Stop the recording").click()
    expect(name).to_have_text("recording.webm")


def test_training_wants_consent_in_words(page: Any, server: Started, tmp_path: Path) -> None:
    footage = tmp_path / "a.mp4"
    footage.write_bytes(b"x" * 100)
    page.goto("/#train")
    choose(page, "dt-train", "Footage of one person", footage)
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_text("Say who agreed to this avatar, and how.", exact=True).wait_for()
    assert all(job["kind"] != "train" for job in server.http.get("/v1/jobs").json())


def test_training_shows_its_sheets_its_report_and_the_avatar(
    page: Any, server: Started, tmp_path: Path
) -> None:
    request = {"avatar": samples.AVATAR, "video": "sample-footage", "audio": "sample-speech"}
    made = server.job(kind="dub", renderer="light", **request)
    assert server.end_of(made)["state"] == "succeeded"
    footage = tmp_path / "me.mp4"
    footage.write_bytes(server.http.get(f"/v1/jobs/{made}/result").content)
    page.goto("/#train")
    choose(page, "dt-train", "Footage of one person", footage)
    page.get_by_label("Name").fill("Somebody")
    page.get_by_label("Consent").fill("Somebody agreed, in writing.")
    page.get_by_label("Preset").select_option("debug")
    page.get_by_role("button", name="Train", exact=True).click()
    name = job_of(page)
    page.locator(".sheets img").first.wait_for()
    page.reload()
    ended = server.end_of(name)
    assert ended["state"] == "succeeded", ended["error"]
    page.get_by_role("link", name="The whole report").wait_for()
    expect(page.get_by_role("row", name=re.compile("^landmark error crop"))).to_be_visible()
    page.reload()
    avatars = page.get_by_label("Avatars", exact=True)
    expect(avatars).to_contain_text("Consent: Somebody agreed, in writing.")
    avatars.get_by_role("button", name="Delete the avatar Somebody").click()
    expect(avatars).not_to_contain_text("Somebody")
