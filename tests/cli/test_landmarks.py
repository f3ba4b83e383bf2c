"""`difftalker landmarks`, and `difftalker dub` with edits and tracks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difftalker import cli
from difftalker.core.hashing import sha256_of
from difftalker.dubbing import engine
from difftalker.landmarks.edits import Edit
from difftalker.landmarks.track_file import LandmarkTrack
from difftalker.media.audio import probe_audio
from difftalker.store import avatars
from helpers_track import FACELESS, FRAMES, ByHand, pictures, same


@pytest.fixture
def person(by_hand: ByHand, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An avatar's folder; where the packaged footage is absent its face is located by hand."""
    home = by_hand.folder / "nobody"
    if not home.exists():
        nets = by_hand.avatar.networks
        avatars.write(
            home, name="nobody", config=by_hand.avatar.config, architecture=nets.architecture(),
            weights=nets.state(), facts={}, card="Nobody.",
        )  # fmt: skip
    monkeypatch.setattr(engine, "locate", lambda *_, **__: by_hand.located)
    return home


def spoken(words: list[str | Path], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main([*map(str, words), "--json"]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    return record


def test_landmarks_are_written_drawn_edited_and_rendered(
    person: Path, by_hand: ByHand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    npz, text, preview = (tmp_path / name for name in ("t.npz", "t.json", "preview.mp4"))
    common: list[str | Path] = [by_hand.footage, by_hand.speech, "--avatar", person]
    record = spoken(["landmarks", *common, "-o", npz, "--preview", preview], capsys)
    assert (record["frames"], record["frames_driven"]) == (FRAMES, FRAMES - 1)
    plain = LandmarkTrack.load(npz)
    assert plain.video_sha256 == sha256_of(by_hand.footage)
    assert plain.avatar == "nobody"
    assert len(pictures(preview)) == FRAMES
    assert probe_audio(preview).rate_hz == 16_000
    drawn = np.abs(pictures(preview).astype(int) - pictures(by_hand.footage)).mean((1, 2, 3))
    assert drawn[FACELESS] < 0.5 * np.delete(drawn, FACELESS).min()

    edit = ["--edit", "mouth=2@0.1-", "--edit", "shift=0.04"]
    assert spoken(["landmarks", *common, "-o", text, *edit], capsys)["edits"] == edit[1::2]
    edited = plain.edited([Edit.parse("mouth=2@0.1-"), Edit.parse("shift=0.04")])
    assert same(LandmarkTrack.load(text), edited)

    outs = [tmp_path / f"{name}.mkv" for name in "abc"]
    ways: list[list[str | Path]] = [["--landmarks", text], ["--landmarks", npz, *edit], [*edit]]
    for out, way in zip(outs, ways, strict=True):
        back = tmp_path / f"{out.stem}.npz"
        how: list[str | Path] = ["-o", out, "--lossless", "--landmarks-out", back]
        how += ["--no-marks", "pixels are compared"]
        assert spoken(["dub", *common, *how, *way], capsys)["frames"] == FRAMES
        assert same(LandmarkTrack.load(back), edited)
    assert len({pictures(out).tobytes() for out in outs}) == 1


def test_wrong_use_is_one_line_and_leaves_nothing(
    person: Path, by_hand: ByHand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"PK")
    common: list[str | Path] = [by_hand.footage, by_hand.speech, "--avatar", person]
    for code, words in (
        (2, ["landmarks", *common, "-o", tmp_path / "t.npz", "--edit", "nose=2"]),
        (1, ["landmarks", *common, "-o", tmp_path / "t.txt"]),
        (1, ["landmarks", *common, "-o", tmp_path / "t.npz", "--preview", tmp_path / "t.gif"]),
        (1, ["dub", *common, "-o", tmp_path / "t.mp4", "--landmarks", bad]),
        (2, ["dub", *common, "-o", tmp_path / "t.mkv", "--landmarks", bad, "--landmarks-out", bad]),
        (2, ["dub", *common, "-o", tmp_path / "t.mkv", "--edit", "mouth=much"]),
        (
            2,
            [
                "dub",
                *common,
                "-o",
                tmp_path / "t.mkv",
                "--fit",
                "pad",
                "--landmarks-out",
                tmp_path / "t.npz",
            ],
        ),
    ):
        assert cli.main([*map(str, words)]) == code, words
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]
