"""The run of an evaluation, on moving pictures of a face made here and on real footage."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.footage import locate
from difftalker.errors import AssetError, DiffTalkerError, MediaError, UsageError
from difftalker.evaluation.footage import Figures, Footage, Output
from difftalker.evaluation.report.table import failures, table
from difftalker.evaluation.run import evaluate
from difftalker.evaluation.systems import SYSTEMS
from difftalker.face.crop import cut
from difftalker.face.detect.track import FaceTrack
from difftalker.media.video import read_frames
from difftalker.store import assets
from evaluation.made import FRAMES, write_clips, write_video
from synthetic import debug_avatar
from write_results import problems

GRID = Path(os.environ.get("DIFFTALKER_GRID", Path(__file__).parents[3] / "shared/data/grid"))
VOLATILE = ("speed", "memory", "machine")


@pytest.fixture(scope="module", autouse=True)
def landmarker() -> None:
    try:
        assets.path("face_landmarker")
    except AssetError as error:
        pytest.skip(f"the face detector's weights cannot be had: {error}")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_clips(tmp_path_factory.mktemp("footage"))


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return debug_avatar()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def report(
    avatar: Avatar, clips: list[Path], folder: Path, steps: list[tuple[str, int, int]]
) -> dict[str, Any]:
    """All rows, once for all tests that look at them."""

    def progress(*step: Any) -> None:
        steps.append(step)

    return evaluate(avatar, clips, folder, steps=1, seed=5, progress=progress)


def by_name(report: dict[str, Any]) -> dict[str, Any]:
    return {clip["name"]: clip for clip in report["clips"]}


def test_the_report_on_disk_is_the_one_returned(report: dict[str, Any], folder: Path) -> None:
    text = (folder / "report.json").read_text()
    assert json.loads(text) == report
    assert "NaN" not in text
    assert "Infinity" not in text
    assert report["version"] == 2
    person = report["avatar"]
    assert (person["name"], person["preset"], person["size_px"]) == ("nobody", "debug", 64)
    way = {"renderer": "diffusion", "sampler": "dpm++", "steps": 1}
    assert report["settings"] == {**way, "seed": 5, "face": "largest"}
    assert problems(report) == []
    figures = ["faces.png", "figure2.png", "figure3.png"]
    assert sorted(path.name for path in folder.iterdir()) == [
        *figures,
        "report.html",
        "report.json",
        "videos",
    ]


def test_every_row_has_every_measure(report: dict[str, Any]) -> None:
    pictures = {f"{kind}_{part}" for kind in ("psnr", "ssim") for part in ("crop", "face", "lower")}
    pictures |= {"sharpness", "flicker", "flicker_static", "flicker_moving", "seam"}
    always = pictures | {"ld_frame", "ld_lower_frame", "found", "open_corr", "silence_leak"}
    completion = {
        f"landmark_error{part}_{unit}"
        for part in ("", "_contour", "_mouth")
        for unit in ("crop", "frame")
    }
    assert tuple(report["rows"]) == tuple(SYSTEMS)
    for row, measures in report["rows"].items():
        dubbed = completion if row not in ("real", "copied") else set()
        rise = {"mouth_rise"} if row == "other_audio" else set()
        assert set(measures) == always | dubbed | rise, row
        assert all(set(m) - {"note"} == {"mean", "low", "high", "n"} for m in measures.values())
        endless = {"psnr_crop", "psnr_face", "psnr_lower"} if row == "copied" else set()
        known = {name for name in pictures | dubbed if measures[name]["n"] == 2}
        assert known == (pictures | dubbed) - endless, row


def test_a_row_is_the_mean_of_its_clips(report: dict[str, Any]) -> None:
    each = [by_name(report)[name]["rows"]["own_audio"] for name in ("first", "second")]
    found = report["rows"]["own_audio"]["ssim_lower"]
    assert found["mean"] == pytest.approx(np.mean([one["ssim_lower"] for one in each]))
    assert found["low"] <= found["mean"] <= found["high"]


def test_real_footage_loses_a_little_in_the_encoder(report: dict[str, Any]) -> None:
    real = {name: m["mean"] for name, m in report["rows"]["real"].items()}
    assert 33 < real["psnr_lower"] < 60
    assert 0.9 < real["ssim_lower"] < 1
    assert 0 < real["ld_frame"] < 0.01
    assert real["found"] == 1
    assert 0.6 < real["sharpness"] < 1.2


def test_a_copy_is_equal_and_the_report_says_what_that_is_worth(report: dict[str, Any]) -> None:
    copied = report["rows"]["copied"]
    assert copied["psnr_lower"]["mean"] is None
    assert copied["psnr_lower"]["n"] == 0
    assert "equal to the footage" in copied["psnr_lower"]["note"]
    assert copied["ssim_crop"]["mean"] == copied["sharpness"]["mean"] == 1
    assert copied["ld_frame"]["mean"] == 0


def test_a_dubbed_face_is_compared_with_the_footage(report: dict[str, Any]) -> None:
    own, real = report["rows"]["own_audio"], report["rows"]["real"]
    assert own["psnr_lower"]["mean"] < own["psnr_crop"]["mean"] < real["psnr_crop"]["mean"]
    assert own["ssim_lower"]["mean"] < own["ssim_crop"]["mean"] < real["ssim_crop"]["mean"]
    parts = [own[f"landmark_error_{part}_crop"]["mean"] for part in ("contour", "mouth")]
    whole = (11 * parts[0] + 20 * parts[1]) / 31
    assert own["landmark_error_crop"]["mean"] == pytest.approx(whole, rel=1e-5)


def test_the_rise_is_that_of_the_mean_mouth_error(report: dict[str, Any]) -> None:
    key, rows = "landmark_error_mouth_crop", report["rows"]
    rise = rows["other_audio"]["mouth_rise"]["mean"]
    assert rise == pytest.approx(
        rows["other_audio"][key]["mean"] / rows["own_audio"][key]["mean"] - 1
    )
    for name in ("first", "second"):
        clip = by_name(report)[name]["rows"]
        own, other = clip["own_audio"][key], clip["other_audio"][key]
        assert clip["other_audio"]["mouth_rise"] == pytest.approx(other / own - 1)


def test_a_file_that_fails_says_why(report: dict[str, Any]) -> None:
    broken = by_name(report)["broken"]
    assert "not a media file" in broken["error"]
    assert list(failures(report["clips"])) == [("broken", "", broken["error"])]
    assert by_name(report)["second"]["frames"] == FRAMES
    assert by_name(report)["second"]["frames_with_face"] == FRAMES - 1


def test_videos_stay_and_the_sheet_shows_them(report: dict[str, Any], folder: Path) -> None:
    made = {str(p.relative_to(folder / "videos")) for p in folder.rglob("*.mp4")}
    rows = ("real", "own_audio", "other_audio", "silence")
    assert made == {f"{row}/{name}.mp4" for row in rows for name in ("first", "second")}
    sheet = cv2.imread(str(folder / "faces.png"))
    assert sheet is not None
    assert sheet.shape == (2 * 2 * 40, 6 * 64, 3)
    real, dubbed = sheet[:40].astype(int), sheet[40:80].astype(int)
    assert np.abs(real - dubbed)[20:].mean() > 5


def test_speed_counts_every_dubbed_frame(report: dict[str, Any]) -> None:
    speed = report["speed"]
    seconds = speed["dub_seconds"] + speed["locate_seconds"]
    assert speed["frames"] == 3 * 2 * FRAMES
    assert speed["frames_per_second"] == pytest.approx(speed["frames"] / seconds)
    assert report["memory"]["peak_mb"] is None or 50 < report["memory"]["peak_mb"] < 1e5


def test_progress_goes_from_nothing_to_all(
    report: dict[str, Any], steps: list[tuple[str, int, int]]
) -> None:
    done = [step[1] for step in steps]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 3 * (1 + len(SYSTEMS)))
    assert {step[2] for step in steps} == {3 * (1 + len(SYSTEMS))}
    assert {step[0] for step in steps} == {"evaluate"}


def test_the_table_has_all_measures_and_failures(report: dict[str, Any]) -> None:
    lines = table(report).splitlines()
    assert lines[0].split() == list(SYSTEMS)
    copied = slice(46, 64)  # the second column
    named = {line.split()[0]: line[copied].split() for line in lines[1:]}
    assert set(report["rows"]["other_audio"]) <= set(named)
    assert (named["psnr_lower"], named["ssim_crop"][0]) == (["-"], "1")
    assert "not a media file" in lines[-1]


def test_the_same_seed_gives_the_same_report(
    avatar: Avatar, clips: list[Path], report: dict[str, Any], tmp_path: Path
) -> None:
    again = evaluate(avatar, clips, tmp_path, rows=("own_audio", "real"), steps=1, seed=5)
    other = evaluate(avatar, clips[:1], tmp_path, rows=("own_audio",), steps=1, seed=6)
    for row in ("own_audio", "real"):
        assert again["rows"][row] == report["rows"][row]
    first = [by_name(one)["first"]["rows"]["own_audio"] for one in (again, other)]
    assert first[0] != first[1]


def test_one_clip_has_no_other_audio(avatar: Avatar, clips: list[Path], tmp_path: Path) -> None:
    rows = ("copied", "real", "other_audio")
    report = evaluate(avatar, clips[:1], tmp_path, rows=rows)
    assert [row for _, row, _ in failures(report["clips"])] == ["copied", "other_audio"]
    assert "two clips at least" in by_name(report)["first"]["rows"]["copied"]["error"]
    assert report["rows"]["copied"] == {}
    one = report["rows"]["real"]["ssim_crop"]
    assert (one["low"], one["high"], one["n"]) == (None, None, 1)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"clips": []}, "no footage"),
        ({"clips": [Path("a/x.mp4"), Path("b/x.avi")]}, "share a name"),
        ({"rows": ("real", "imagined")}, "imagined"),
        ({"rows": ()}, "nothing"),
        ({"sampler": "guess"}, "guess"),
        ({"steps": 0}, "steps"),
    ],
)
def test_wrong_use_ends_the_run(
    avatar: Avatar, clips: list[Path], tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    arguments: dict[str, Any] = {"clips": clips[:1], "rows": ("own_audio",), **change}
    with pytest.raises(UsageError, match=found):
        evaluate(avatar, report_dir=tmp_path, **arguments)
    assert not (tmp_path / "report.json").exists()


def test_nothing_is_reported_where_nothing_was_measured(
    avatar: Avatar, clips: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(MediaError, match=r"none of 1 clips.*not a media file"):
        evaluate(avatar, clips[1:2], tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_a_report_needs_a_folder(avatar: Avatar, clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DiffTalkerError, match="cannot be made"):
        evaluate(avatar, clips[:1], tmp_path / "taken" / "report", rows=("real",))


@dataclass(frozen=True)
class Brightness:
    """A judge that tells how bright an output is, and refuses the footage of one clip."""

    name: str = "brightness"
    measures: tuple[str, ...] = ("bright", "loud")
    facts: Mapping[str, Any] = field(
        default_factory=lambda: {"sha256": "0" * 64, "unseen": {"told": math.nan}, "of": (1, "a")}
    )
    refuses: str = "second"

    def judge(self, clip: Footage, output: Output, made: FaceTrack) -> Figures:
        if clip.path.stem == self.refuses:
            raise MediaError("too dark to judge")
        assert len(made) == len(clip.crops(output.video)) == FRAMES
        return {"bright": float(np.mean([crop.mean() for crop in clip.crops(output.video)]))}


def test_a_judge_adds_its_measures_and_says_why_it_could_not(
    avatar: Avatar, clips: list[Path], tmp_path: Path
) -> None:
    videos = [clips[0], clips[2]]
    report = evaluate(avatar, videos, tmp_path, rows=("real", "copied"), judges=[Brightness()])
    facts = {"sha256": "0" * 64, "unseen": {"told": None}, "of": [1, "a"]}
    assert report["judges"] == {"brightness": {"measures": ["bright", "loud"], **facts}}
    bright = report["rows"]["real"]["bright"]
    crops = [
        cut(frame.image, locate(clips[0], 64).framing.crop, i, 64).mean()
        for i, frame in enumerate(read_frames(clips[0]))
    ]
    assert bright["n"] == 1
    assert bright["mean"] == pytest.approx(np.mean(crops), abs=1)
    assert report["rows"]["copied"]["bright"]["mean"] == pytest.approx(np.mean(crops))
    assert report["rows"]["real"]["loud"]["n"] == 0
    assert report["rows"]["real"]["psnr_crop"]["n"] == 2
    second = by_name(report)["second"]
    assert second["failed"]["real"] == {"brightness": "too dark to judge"}
    assert second["rows"]["real"]["bright"] is None
    assert ("second", "copied brightness", "too dark to judge") in failures(report["clips"])


@pytest.fixture(scope="module")
def grid_clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The middle second of two test clips."""
    if not (GRID / "protocol.json").is_file():
        pytest.skip(f"no GRID footage in {GRID} (DIFFTALKER_GRID)")
    folder = tmp_path_factory.mktemp("grid")
    names = json.loads((GRID / "protocol.json").read_text())["test"][:2]
    sources = {name: GRID / "s1" / f"{name}.mpg" for name in names}
    return [
        write_video(
            folder / f"{name}.mp4", [f.image for f in islice(read_frames(path), 20, 48)], path
        )
        for name, path in sources.items()
    ]


def test_a_real_mouth_follows_its_own_speech_alone(
    avatar: Avatar, grid_clips: list[Path], tmp_path: Path
) -> None:
    rows = evaluate(avatar, grid_clips, tmp_path, rows=("real", "copied"))["rows"]
    assert rows["real"]["open_corr"]["mean"] > 0.95
    assert rows["copied"]["open_corr"]["mean"] < rows["real"]["open_corr"]["mean"] - 0.2
    assert rows["real"]["ld_frame"]["mean"] < 0.003
