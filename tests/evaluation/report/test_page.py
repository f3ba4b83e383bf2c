"""What an evaluation sets beside our rows, and how it shows them: page, figures, schema, charts."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator

from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.footage import locate
from difftalker.dubbing.networks import build
from difftalker.errors import AssetError, MediaError, UsageError
from difftalker.evaluation.footage import Figures, Footage, Output
from difftalker.evaluation.report.figures import nod, spread
from difftalker.evaluation.report.measures import MEASURES, described
from difftalker.evaluation.report.schema import SCHEMA
from difftalker.evaluation.report.table import failures
from difftalker.evaluation.run import evaluate
from difftalker.evaluation.systems import named_paths
from difftalker.face.detect.track import FaceTrack
from difftalker.marks.verify import verify
from difftalker.media.video import probe_video, read_frames
from difftalker.metrics import landmark_error
from difftalker.store import assets
from synthetic import (
    debug_avatar,
    face_points,
    swaying,
    write_footage,
    write_half_tone,
)
from write_results import problems

FRAMES = 10
ROOT = Path(__file__).parents[3]
CLIP = "a<b>"
"""A name that a page has to escape."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    try:
        assets.path("face_landmarker")
    except AssetError as error:
        pytest.skip(f"the face detector's weights cannot be had: {error}")
    folder = tmp_path_factory.mktemp("footage")
    videos = []
    for name, step, hz in ((CLIP, 1.5, 200), ("other", -1.0, 900)):
        sound = write_half_tone(folder / f"{hz}.wav", FRAMES / 25, hz)
        images = swaying(FRAMES, step)
        videos.append(write_footage(folder / f"{name}.mp4", images, audio=sound))
    return videos


@pytest.fixture(scope="module")
def programs(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Another program's videos: one small at twice the rate, one missing; and exact copies."""
    fast, same = (tmp_path_factory.mktemp(name) for name in ("fast", "same"))
    frames = [frame.image for frame in read_frames(clips[0])]
    small = [np.asarray(cv2.resize(frame, (192, 192)), np.uint8) for frame in frames]
    twice = [frame for frame in small for _ in range(2)]
    write_footage(fast / f"{CLIP}.mp4", twice, step_ms=20)
    for clip in clips:
        (same / clip.name).write_bytes(clip.read_bytes())
    return {"fast": fast, "same": same}


@pytest.fixture(scope="module")
def larger() -> Avatar:
    """Another avatar, with crops of another size."""
    torch.manual_seed(1)
    model = replace(debug_avatar().config, size_px=128)
    facts = {"stages": {"prior": {"steps": 7, "minutes": 0.25}}, "clips_train": 3}
    return Avatar("larger", model, build(model), facts=facts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


class Counter:
    """A judge that counts crops."""

    name = "counter"
    measures = ("counted",)
    facts: Mapping[str, Any] = {"sha256": "f0" * 32, "unseen": {"told": 0.97531}}

    def judge(self, clip: Footage, output: Output, made: FaceTrack) -> Figures:
        return {"counted": float(sum(1 for _ in clip.crops(output.video)))}


@pytest.fixture(scope="module")
def report(
    clips: list[Path], programs: dict[str, Path], larger: Avatar, folder: Path
) -> dict[str, Any]:
    return evaluate(
        debug_avatar(),
        clips,
        folder,
        rows=("own_audio", "other_audio", "real"),
        ablations={"other-size": larger},
        predictions=programs,
        judges=[Counter()],
        steps=1,
    )


def clip_rows(report: dict[str, Any], name: str) -> dict[str, Any]:
    [rows] = [clip["rows"] for clip in report["clips"] if clip["name"] == name]
    return dict(rows)


def test_ablations_and_programs_are_rows_after_ours(report: dict[str, Any]) -> None:
    assert list(report["rows"]) == [
        *("real", "own_audio", "other_audio"),
        *("other-size", "fast", "same"),
    ]
    assert problems(report) == []


def test_an_avatar_of_another_size_is_measured_in_our_crops(
    report: dict[str, Any], larger: Avatar, clips: list[Path]
) -> None:
    own, other = report["rows"]["own_audio"], report["rows"]["other-size"]
    assert set(other) == set(own)
    assert other["psnr_lower"]["mean"] != own["psnr_lower"]["mean"]
    ours = locate(clips[0], 64)
    true = ours.framing.crop.to_crop(ours.track.points_px)
    error = landmark_error(larger.complete(locate(clips[0], 128), clips[0]), true)
    assert clip_rows(report, CLIP)["other-size"]["landmark_error_crop"] == pytest.approx(error)
    facts = report["ablations"]["other-size"]
    assert (facts["name"], facts["size_px"], facts["clips_train"]) == ("larger", 128, 3)
    assert facts["trained"] == {"prior": {"steps": 7, "minutes": 0.2}}
    assert report["speed"]["frames"] == 2 * 2 * FRAMES  # ours alone


def test_a_programs_videos_are_fitted_and_the_report_says_how(report: dict[str, Any]) -> None:
    [first, _] = report["clips"]
    assert first["notes"] == {
        "fast": f"{2 * FRAMES} frames matched by time to {FRAMES};"
        " resized from 192 x 192 to 256 x 256"
    }
    fast = first["rows"]["fast"]
    assert fast["psnr_crop"] > 25
    assert fast["sharpness"] < 0.9
    assert "landmark_error_crop" not in fast
    assert fast["open_corr"] == pytest.approx(clip_rows(report, CLIP)["same"]["open_corr"], abs=0.3)


def test_a_programs_exact_copy_is_exact(report: dict[str, Any]) -> None:
    same = report["rows"]["same"]
    assert same["psnr_crop"]["mean"] is None
    assert same["ssim_face"]["mean"] == same["flicker_static"]["mean"] == 1
    assert report["programs"]["same"]["folder"].startswith("same")


def test_a_missing_video_is_a_row_that_says_why(report: dict[str, Any]) -> None:
    failed = [(clip, row) for clip, row, _ in failures(report["clips"])]
    assert failed == [("other", "fast")]
    assert "other.mp4" in clip_rows(report, "other")["fast"]["error"]
    assert report["rows"]["fast"]["psnr_crop"]["n"] == 1


@pytest.mark.parametrize(
    ("names", "said"),
    [(["real"], "two rows are called 'real'"), (["a/b"], "a/b"), ([".."], "cannot be called")],
)
def test_a_row_needs_a_name_of_its_own(
    clips: list[Path], tmp_path: Path, names: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        evaluate(debug_avatar(), clips, tmp_path / "r", predictions=dict.fromkeys(names, tmp_path))
    assert not (tmp_path / "r").exists()


def test_a_folder_of_predictions_has_to_be_there(clips: list[Path], tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such folder"):
        evaluate(debug_avatar(), clips, tmp_path, predictions={"them": tmp_path / "no"})


def test_names_of_rows_on_the_command_line() -> None:
    named = named_paths(["small=runs/a=b", "out/wav2lip/"])
    assert named == {"small": "runs/a=b", "wav2lip": "out/wav2lip/"}
    with pytest.raises(UsageError, match="two rows are called 'a'"):
        named_paths(["a=x", "y/a"])


class Reader(HTMLParser):
    """What a page refers to and says."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href", "data") and v]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_one_file_that_needs_no_other(report: dict[str, Any], folder: Path) -> None:
    page = (folder / "report.html").read_text()
    reader = Reader()
    reader.feed(page)
    kinds = [source.split(";")[0] for source in reader.sources]
    assert kinds == ["data:video/mp4"] * 2 + ["data:image/jpeg"] * 3
    assert not {"script", "link", "iframe"} & set(reader.tags)
    assert "@import" not in page
    assert "url(" not in page
    assert len(page) < 30e6


def test_the_page_says_what_the_report_says(report: dict[str, Any], folder: Path) -> None:
    page = (folder / "report.html").read_text()
    reader = Reader()
    reader.feed(page)
    assert CLIP in reader.text
    assert CLIP not in page
    for row, figures in report["rows"].items():
        assert row in reader.text
        for key, one in figures.items():
            assert described(key).text in reader.text
            if one["mean"] is not None:
                assert f"{one['mean']:.{described(key).digits}f}" in reader.text, (row, key)
    assert clip_rows(report, "other")["fast"]["error"] in reader.text
    assert report["clips"][0]["notes"]["fast"] in reader.text
    assert "prior 7" in reader.text
    assert f"counted. sha256 {'f0' * 32}; unseen: told 0.9753" in reader.text


def test_the_page_plays_footage_beside_what_was_made(
    report: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    page = (folder / "report.html").read_text()
    content = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    video = tmp_path / "clip.mp4"
    video.write_bytes(base64.b64decode(content[0]))
    found = verify(video)
    assert (found.verdict, found.source_type) == ("intact", "compositeWithTrainedAlgorithmicMedia")
    info = probe_video(video)
    assert (info.width, info.height, info.has_audio) == (3 * 64, 64 + 20, True)
    assert "AI-generated" in info.comment
    images = [frame.image.astype(int) for frame in read_frames(video)]
    assert len(images) == FRAMES
    true, own, other = (images[5][20:52, 64 * i : 64 * i + 64] for i in range(3))
    below = images[5][60:]
    assert np.abs(true - own).mean() < 6  # the upper face is the footage's
    assert np.abs(below[:, :64] - below[:, 64:128]).mean() > 10
    assert np.abs(true - other).mean() < 6


def test_figures_show_what_they_say(report: dict[str, Any], folder: Path) -> None:
    second, third, faces = (
        np.asarray(cv2.imread(str(folder / f"{name}.png"))).astype(int)
        for name in ("figure2", "figure3", "faces")
    )
    assert second.shape == (20 + 2 * 64, 4 * 64, 3)
    assert third.shape == (3 * (20 + 64), 8 * 64, 3)
    assert faces.shape == (2 * 2 * 40, 6 * 64, 3)
    footage, completed = second[20:84, :64], second[20:84, 64:128]
    green = (footage[..., 1] > 180) & (footage[..., 2] < 140)
    assert green.sum() > 60
    assert not np.array_equal(footage, completed)
    landmarks = third[2 * 84 + 20 :]
    assert 0.7 < (landmarks.max(2) == 0).mean() < 0.99  # lines on black


def test_figures_that_cannot_be_drawn_are_not_there(clips: list[Path], tmp_path: Path) -> None:
    evaluate(debug_avatar(), clips[:1], tmp_path, rows=("real",))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.json", "report.html", "faces.png", "videos"}
    assert "<video" not in (tmp_path / "report.html").read_text()


def test_a_nod_moves_the_tip_of_the_nose() -> None:
    up = face_points()[None]
    down = up.copy()
    down[:, 30, 1] += 3
    assert nod(down)[0] > nod(up)[0]
    assert nod(up * 3 + 7) == pytest.approx(nod(up), rel=1e-4)


def test_poses_are_spread_by_yaw() -> None:
    poses = {(0, i): (float(i % 5), float(i // 5)) for i in range(25)}
    chosen = spread(poses, 5)
    corners = {(0.0, 0.0), (4.0, 0.0), (0.0, 4.0), (4.0, 4.0)}
    assert corners | {(2.0, 2.0)} == {poses[key] for key in chosen}
    assert [poses[key][0] for key in chosen] == [0, 0, 2, 4, 4]
    assert spread({}, 5) == []
    assert spread({(1, 2): (0.5, 0.5)}, 5) == [(1, 2)]


def test_the_schema_finds_what_is_wrong(report: dict[str, Any]) -> None:
    def broken(change: str) -> list[str]:
        one = copy.deepcopy(report)
        exec(change, {}, {"r": one})
        return problems(one)

    assert broken("r['version'] = 1") == ["report.version: 2 was expected"]
    assert broken("del r['rows']['real']['found']['n']") == [
        "report.rows.real.found: 'n' is a required property"
    ]
    [negative] = broken("r['clips'][1]['frames'] = -1")
    assert negative.startswith("report.clips[1].frames: -1 is less than")
    [unknown] = broken("r['new'] = 0")
    assert "'new'" in unknown
    assert broken("r['clips'] = {}") == ["report.clips: {} is not of type 'array'"]
    [told] = broken("r['settings']['seed'] = True")
    assert told.startswith("report.settings.seed: True is not of type")
    assert broken("r['clips'][0]['rows']['real']['found'] = []") != []


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(json.loads(json.dumps(SCHEMA)))


def test_every_measure_is_defined_in_the_docs() -> None:
    text = (ROOT / "docs" / "guide" / "evaluate.md").read_text()
    defined = {name for line in text.splitlines() if line.startswith("| `")
               for name in re.findall(r"`(\w+)`", line.split("|")[1])}  # fmt: skip
    grouped = {name for name in MEASURES if re.match(r"landmark_error_(contour|mouth)_", name)}
    assert set(MEASURES) - grouped - defined == set()
