"""Any speaker: where training begins, what is held out of it, and the report at its end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from difftalker import config as configs
from difftalker.config import STAGES
from difftalker.data.dataset import load_dataset
from difftalker.data.footage import Part
from difftalker.dubbing.footage import locate
from difftalker.dubbing.networks import build
from difftalker.errors import TrainingError, UsageError
from difftalker.evaluation import held_out
from difftalker.face.landmarks import LOWER, UPPER
from difftalker.landmarks.completion import CompletionNet
from difftalker.media.audio import read_audio
from difftalker.media.video import read_frames
from difftalker.store import avatars as avatar
from difftalker.training import api as recipe
from difftalker.training.init_from import NONE, choose_start, remember_start
from helpers import write_dataset
from synthetic import debug_avatar, swaying, write_footage, write_half_tone

FRAMES, HELD = 36, 12
"""Frames of the one clip, and of its held-out end."""
AT_ONCE = [f"--set=training.{stage}.steps=0" for stage in STAGES]
"""Networks stay as they begin."""


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packaged avatars: one of the preset debug, called nobody."""
    folder, model = tmp_path_factory.mktemp("packaged"), configs.debug().model
    torch.manual_seed(7)
    nets = build(model)
    avatar.write(
        folder / "nobody",
        name="nobody",
        config=nets.resolved(model),
        architecture=nets.architecture(),
        weights=nets.state(),
        facts={"source": "a drawing, CC0"},
        card="untrained",
    )
    return folder


@pytest.fixture(autouse=True)
def only_nobody(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avatar, "PACKAGED", packaged)


# Where it begins


def test_the_packaged_avatar_is_begun_at_where_it_has_the_same_networks(tmp_path: Path) -> None:
    model = configs.override(configs.debug(), {"model.sampling.steps": "1"}).model
    assert choose_start("", model, tmp_path).avatar == "nobody"
    assert choose_start(NONE, model, tmp_path).avatar == ""


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (configs.tiny().model, "preset is debug, here tiny"),
        (
            configs.override(configs.debug(), {"model.completion.features": "characters"}).model,
            "completion.features is mel, here characters",
        ),
    ],
)
def test_what_does_not_fit_is_reported(
    model: configs.ModelConfig, why: str, tmp_path: Path
) -> None:
    start = choose_start("", model, tmp_path)
    assert start.avatar == ""
    assert start.why == f"the packaged avatar nobody has other networks: {why}"
    with pytest.raises(UsageError, match=why):
        choose_start("nobody", model, tmp_path)


def test_options_that_an_avatar_does_not_fit_are_refused(dataset: Path, tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [{"completion": "paper"}, {"features": "characters"}]
    for options in others:
        with pytest.raises(UsageError, match=r"nobody has other networks.*--start none"):
            recipe.train(
                [dataset], tmp_path / "me", preset="debug", consent="c", start="nobody", **options
            )


def test_a_run_goes_on_where_it_began(packaged: Path, tmp_path: Path) -> None:
    model = configs.debug().model
    remember_start(tmp_path, "")
    assert choose_start("", model, tmp_path).avatar == ""
    with pytest.raises(TrainingError, match="begun with --start none"):
        choose_start("nobody", model, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    remember_start(other, str(packaged / "nobody"))
    assert choose_start("", model, other).avatar == str(packaged / "nobody")
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text("{}")  # of a version that always began at random
    assert choose_start("", model, old).avatar == ""


def test_networks_that_begin_at_an_avatar_take_a_third_of_the_steps() -> None:
    whole, third = configs.tiny().training, configs.fine_tuned(configs.tiny()).training
    for stage in STAGES:
        assert getattr(third, stage).steps == -(-getattr(whole, stage).steps // 3)
    assert configs.fine_tuned(configs.half()).training.decoder.steps == 0


def synthesis(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "synthesis.safetensors")


def test_training_begins_at_the_packaged_avatar_and_says_so(
    dataset: Path, packaged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {f"training.{stage}.steps": "0" for stage in STAGES}
    common: dict[str, Any] = {"preset": "debug", "consent": "drawn", "settings": settings}
    with caplog.at_level(logging.WARNING):
        recipe.train([dataset], tmp_path / "me", **common)
    assert "begin at those of the avatar nobody (packaged)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        recipe.train([dataset], tmp_path / "new", start=NONE, **common)
    assert "begin at random: as asked" in caplog.text
    theirs, mine, new = map(synthesis, (packaged / "nobody", tmp_path / "me", tmp_path / "new"))
    assert all(torch.equal(mine[k], v) for k, v in theirs.items())
    assert not all(torch.equal(new[k], v) for k, v in theirs.items())
    assert avatar.read(tmp_path / "me").facts["begun_at"] == [
        {"name": "nobody", "source": "a drawing, CC0"}
    ]
    assert "Begun at" not in (tmp_path / "new" / "card.md").read_text()


def test_single_stages_are_no_whole_avatar_unless_one_is_named(
    dataset: Path, tmp_path: Path
) -> None:
    def unfinished(start: str) -> list[str]:
        return recipe.train(
            [dataset], tmp_path / f"me-{start}", preset="debug", start=start, stages=("landmarks",)
        ).unfinished

    assert unfinished("") == list(STAGES[1:])
    assert unfinished("nobody") == []


# What is held out


def test_of_few_clips_the_ends_are_held_out(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, ("a",), frames=60)
    whole = load_dataset(folder, validation_clips=0)
    assert whole.train == whole.validation
    [clip] = whole.train
    data = load_dataset(folder, validation_clips=4)
    [before], [after] = data.train, data.validation
    assert (len(before), len(after)) == (40, 20)  # no more than a third
    assert (before.name, after.name, after.clip) == ("a", "a from 1.6 s", "a")
    for name in ("points_crop", "times_s", "boxes", "found", "frames"):
        both = np.concatenate([getattr(before, name), getattr(after, name)])
        np.testing.assert_array_equal(both, getattr(clip, name))
    both = np.concatenate([before.windows("mel", 16), after.windows("mel", 16)])
    np.testing.assert_array_equal(both, clip.windows("mel", 16))


def test_what_is_held_out_shows_the_face_and_is_not_long(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, ("a",), frames=100)
    path = folder / "clips" / "a" / "track.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["found"][90:] = False
    np.savez(path, **arrays)
    [clip] = load_dataset(folder, validation_clips=0).train
    assert clip.end(12) == 90 - 25
    assert clip.end(0.4) == 90 - 10


# The report


@pytest.fixture(scope="module")
def footage(landmarker: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One short clip of a face, with a tone in its first half."""
    folder = tmp_path_factory.mktemp("footage")
    sound = write_half_tone(folder / "tone.wav", FRAMES / 25, 300)
    return write_footage(folder / "face.mp4", swaying(FRAMES, 1.5), audio=sound)


def test_one_clip_makes_an_avatar_with_a_report_of_its_end(
    command: Callable[..., tuple[int, str, str]], footage: Path, tmp_path: Path
) -> None:
    out = tmp_path / "me"
    words = ("train", footage, "-o", out, "--preset", "debug", "--consent", "drawn")
    code, printed, told = command(*words, "--json")
    assert code == 0, told
    assert "the networks begin at those of the avatar nobody (packaged)" in told
    record = json.loads(printed)
    facts = avatar.read(out).facts
    assert {stage: one["steps"] for stage, one in facts["stages"].items()} == dict.fromkeys(
        STAGES, 2
    )
    report = record["held_out"]
    assert report == json.loads((tmp_path / "me-run" / "held-out.json").read_text())
    assert report["frames"] == HELD
    assert [one["footage"] for one in report["clips"]] == ["face.mp4"]
    assert report["clips"][0]["start_s"] == pytest.approx((FRAMES - HELD) / 25)
    assert list(report["rows"]) == ["real", "own_audio"]
    assert set(report["rows"]["own_audio"]) == set(held_out.MEASURES)
    for key in ("landmark_error_crop", "psnr_lower", "ssim_lower", "sharpness", "flicker"):
        assert report["rows"]["own_audio"][key]["mean"] > 0
    assert report["rows"]["real"]["psnr_lower"]["mean"] > 30
    card = (out / "card.md").read_text()
    assert "1 to learn from, 1 held out (face from 1.0 s)" in card
    assert "the avatar nobody, whose footage is a drawing, CC0" in card
    assert "## On footage held out of its training" in card
    assert "| PSNR, lower region, dB |" in card

    code, printed, told = command(*words)
    assert code == 0, told
    assert f"face.mp4 from 1.0 to 1.4 s; {HELD} frames" in printed
    assert "real footage" in printed
    assert "no other sound to dub it with" in printed


def test_a_prepared_dataset_has_no_video_to_dub(
    command: Callable[..., tuple[int, str, str]], dataset: Path, tmp_path: Path
) -> None:
    words = ("train", dataset, "-o", tmp_path / "me", "--preset", "debug", "--consent", "drawn")
    code, printed, told = command(*words, *AT_ONCE)
    assert code == 0, told
    assert "no held-out report" in printed
    assert "On footage held out" not in (tmp_path / "me" / "card.md").read_text()


def test_pieces_of_long_footage_are_dubbed_with_each_other_s_sound(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "PIECE_S", 0.5)
    part = Part(footage=footage, start_s=0.1, stop_s=1.1, whole=False)
    record = held_out.report_held_out(debug_avatar(), [part], tmp_path)
    assert record["frames"] == 25
    assert [(one["start_s"], one["stop_s"]) for one in record["clips"]] == [(0.1, 0.6), (0.6, 1.1)]
    assert list(record["rows"]) == ["real", "own_audio", "other_audio"]
    assert record["failures"] == []


def test_a_part_is_cut_out_as_it_was_after_sound_without_a_face(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "LEAD_S", 0.2)
    part = Part(footage=footage, start_s=0.6, stop_s=1.0, whole=False)
    cut = held_out.cut_piece(part, tmp_path)
    wanted = [f.image for f in read_frames(footage) if 0.59 <= f.time_s < 0.99]
    found = [f.image for f in read_frames(cut)]
    assert (len(wanted), len(found)) == (10, 15)
    assert all((image == 128).all() for image in found[:5])
    assert all(np.array_equal(a, b) for a, b in zip(wanted, found[5:], strict=True))
    sound, there = read_audio(footage), read_audio(cut)
    np.testing.assert_allclose(there, sound[6400 : 6400 + len(there)], atol=1e-3)
    located = locate(cut, 64)
    assert located.track.found.tolist() == [False] * 5 + [True] * 10
    assert located.strength.tolist() == [0.0] * 5 + [1.0] * 10  # nothing of the footage is shown


def test_a_report_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    part = Part(footage=tmp_path / "gone.mp4", start_s=0, stop_s=1, whole=True)
    record = held_out.report_held_out(debug_avatar(), [part], tmp_path)
    assert "no such file" in held_out.text(record)


# Landmarks of little footage


def test_the_less_footage_the_more_of_another_speaker_s_maps_stays(dataset: Path) -> None:
    clip = load_dataset(dataset, validation_clips=0).train[0]
    seen = torch.from_numpy(clip.points_crop), torch.from_numpy(clip.windows("mel", 16))
    net = CompletionNet(configs.debug().model.completion)
    net.fit([seen])
    before = net.state_dict()
    moved = seen[0] + torch.linspace(0, 0.02, 68)[:, None], seen[1].flip(0) + 1
    upper, lower = moved[0][:, list(UPPER)], moved[0][:, list(LOWER)]
    wanted = (lower - upper.mean(1, keepdim=True)).mean(0)
    changes = []
    for times in (1, 40, 1600):
        other = CompletionNet(net.config)
        other.load_state_dict(before)
        other.fit([moved] * times)  # somebody else's
        torch.testing.assert_close(other.mean_lower, wanted)
        found = other.state_dict()
        changes.append(
            [
                float((found[name] - before[name]).norm() / before[name].norm())
                for name in ("least_squares.from_upper", "least_squares.from_speech")
            ]
        )
        assert not torch.equal(found["opening.head.weight"], before["opening.head.weight"])
    little, more, most = np.array(changes)
    assert (little > 0).all()
    assert (2 * little < more).all()
    assert (more < most).all()


def test_what_is_known_is_no_hindrance_where_it_is_right(dataset: Path) -> None:
    clip = load_dataset(dataset, validation_clips=0).train[0]
    seen = torch.from_numpy(clip.points_crop), torch.from_numpy(clip.windows("mel", 16))
    net = CompletionNet(configs.debug().model.completion).eval()
    lower = seen[0][:, list(LOWER)]

    def error() -> float:
        made = net(seen[0][None, :, list(UPPER)], seen[1][None]).points[0, :, list(LOWER)]
        return float((made - lower).norm(dim=-1).mean())

    net.fit([seen])
    first = error()
    net.fit([seen])
    assert error() <= first * 1.02
