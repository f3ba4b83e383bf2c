"""Reading lips and closing them: grammar, word times, pictures of the mouth, training, judges."""

from __future__ import annotations

import copy
import dataclasses
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from difftalker.config import StageConfig
from difftalker.data.dataset import Dataset, load_dataset
from difftalker.dubbing.footage import TrackedFootage
from difftalker.errors import MediaError, UsageError
from difftalker.evaluation.footage import Figures, Footage, Output
from difftalker.evaluation.judges.closure import ClosureJudge, closure, lip_sounds
from difftalker.evaluation.judges.lipreading import LipJudge, filled, word_error
from difftalker.experts.lip_reader import LipReader, LipReaderConfig, mirrored, read
from difftalker.face.crop import CropTrack, Framing
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import LOWER, MOUTH
from difftalker.face.mouth import head_maps, lip_points, mouth_views
from difftalker.media.video import VideoWriter, probe_video
from difftalker.speech.grid import (
    GRAMMAR,
    PHONES,
    PRONUNCIATIONS,
    SLOTS,
    Word,
    choices,
    read_alignment,
    sentence_of_name,
)
from difftalker.store import experts as expert
from difftalker.training.expert_job import ExpertOptions
from difftalker.training.lips_task import (
    LipsTask,
    SpokenClip,
    frame_phones,
    job,
    part_shares,
    spliced,
)
from difftalker.training.trainer import Trainer
from helpers import draw_face, face_points, write_dataset

TINY = LipReaderConfig(channels=(8, 8, 8), width=16, blocks=1, context=8, heard_dim=160)
SENTENCE = ("bin", "blue", "at", "f", "two", "now")


def spoken(*texts: str, start_s: float = 0.2, each_s: float = 0.1) -> list[Word]:
    """Words of the same length, one after the other."""
    starts = [start_s + i * each_s for i in range(len(texts))]
    return [
        Word(text=text, start_s=start, stop_s=start + each_s)
        for text, start in zip(texts, starts, strict=True)
    ]


def test_names_spell_sentences() -> None:
    assert sentence_of_name("bbaf2n") == SENTENCE
    assert sentence_of_name("id2_vcd_swwpzs") == ("set", "white", "with", "p", "zero", "soon")
    assert sentence_of_name("bbaw2n") is None  # GRID has no letter w
    assert sentence_of_name("holiday") is None
    assert sentence_of_name("bbaf0n") is None


def test_every_word_has_a_pronunciation() -> None:
    words = {word for slot in GRAMMAR for word in slot}
    assert len(words) == 51
    assert words == set(PRONUNCIATIONS)


@given(st.tuples(*(st.integers(0, len(slot) - 1) for slot in GRAMMAR)))
def test_choices_are_places_in_the_grammar(chosen: tuple[int, ...]) -> None:
    words = [slot[i] for i, slot in zip(chosen, GRAMMAR, strict=True)]
    assert choices(words) == chosen


def test_no_sentence_of_grid_is_refused() -> None:
    with pytest.raises(MediaError, match="no sentence of GRID"):
        choices(["bin", "blue", "at", "w", "two", "now"])
    with pytest.raises(MediaError, match="no sentence of GRID"):
        choices(["bin", "blue"])


def test_word_times_are_seconds_without_pauses(tmp_path: Path) -> None:
    path = tmp_path / "bbaf2n.align"
    path.write_text("0 17750 sil\n17750 22500 bin\n22500 23000 sp\n23000 27000 blue\n")
    words = read_alignment(path)
    assert [word.text for word in words] == ["bin", "blue"]
    assert words[1].start_s == pytest.approx(0.92)
    assert words[1].stop_s == pytest.approx(1.08)
    path.write_text("0 17750\n")
    with pytest.raises(MediaError, match="word times"):
        read_alignment(path)


def test_word_error_by_hand() -> None:
    assert word_error(SENTENCE, SENTENCE) == 0
    assert word_error(("lay", "blue", "at", "s", "two", "now"), SENTENCE) == pytest.approx(2 / 6)
    assert word_error(("lay", "red", "by", "s", "one", "soon"), SENTENCE) == 1
    with pytest.raises(ValueError, match="2 words"):
        word_error(("bin", "blue"), SENTENCE)


def test_lip_sounds_stand_where_words_have_them() -> None:
    # bin: b ih n; please: p l iy z; m: eh m. Two, of which GRID has no lips; a word it lacks.
    words = spoken("bin", "two", "please", "m", "bob", start_s=0, each_s=0.12)
    expected = [(0, 0.04), (0.24, 0.27), (0.42, 0.48)]
    assert np.allclose(lip_sounds(words), expected)


def test_closure_by_hand() -> None:
    times_s = np.arange(25) / 25
    opening = np.full(25, 0.2)
    opening[5] = 0.01  # 0.20 s
    opening[15] = 0.05  # 0.60 s: nearer, but open
    spans = [(0.22, 0.30), (0.58, 0.62)]  # the first is reached by the margin
    assert closure(opening, times_s, spans) == 0.5
    assert closure(opening, times_s, [(0.26, 0.30)]) == 0
    opening[14:18] = np.nan
    assert closure(opening, times_s, spans) == 1
    assert np.isnan(closure(opening, times_s, []))


def test_head_units_do_not_depend_on_place_size_and_turn_of_the_head() -> None:
    points = np.stack([face_points(0.01 * i) for i in range(8)])
    turn = 1.7 * np.array([[np.cos(0.2), np.sin(0.2)], [-np.sin(0.2), np.cos(0.2)]])
    moved = (points @ turn + (3, -5)).astype(np.float32)
    assert np.allclose(lip_points(points), lip_points(moved), atol=1e-4)


def test_head_units_are_of_the_upper_face_alone() -> None:
    points = np.stack([face_points(0.01 * i) for i in range(8)])
    changed = points.copy()
    changed[:, list(MOUTH)] += 0.1
    assert np.array_equal(head_maps(points), head_maps(changed))


def test_mouth_views_lie_where_lip_points_say() -> None:
    rng = np.random.default_rng(0)
    opening = 0.12
    points = np.stack([face_points(opening)] * 3)
    images = [draw_face(points[0], 256, rng)] * 3
    views = mouth_views(images, points * 256)
    x, y = (lip_points(points)[0, [LOWER.index(62), LOWER.index(66)]].mean(0) - (0, 0.5)) * 52
    column, row = round(float(x) + 36 - 0.5), round(float(y) + 28 - 0.5)
    assert views.shape == (3, 56, 72)
    assert views[1, row, column] < 60  # the dark inside of the drawn mouth
    assert views[1, row, 3] > 120  # the cheek


def test_a_mirror_shows_a_symmetric_face_as_it_is() -> None:
    points = torch.from_numpy(lip_points(np.stack([face_points(0.05)] * 3)))
    assert torch.allclose(mirrored(points), points, atol=1e-5)
    assert torch.equal(mirrored(mirrored(points)), points)


def test_a_word_keeps_its_sounds_at_its_time() -> None:
    found = frame_phones(spoken("bin", start_s=0.08, each_s=0.24), np.arange(10) / 25)
    silence = len(PHONES)
    sounds = [PHONES[i] for i in found if i < silence]
    assert sounds == ["b", "b", "ih", "ih", "n", "n"]
    assert found.tolist().index(PHONES.index("b")) == 2
    assert found[-1] == silence


def test_shares_of_parts_fall_on_their_frames() -> None:
    edges = np.array([2.0, 5.0, 6.5, 8, 9, 10, 13])
    shares = part_shares(edges, 20, 3)
    assert shares.shape == (20, 6, 3)
    assert np.allclose(shares.sum(0), 1)
    assert np.array_equal(shares[:, 0].argmax(0), [2, 3, 4])
    assert np.allclose(shares[5:7, 1].sum(1), [2, 1])  # three parts of half a frame each


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[SpokenClip]:
    """Three drawn clips with the words that their names spell."""
    names = ("bbaf2n", "lgbm7p", "sriz9s")
    data = load_dataset(
        write_dataset(tmp_path_factory.mktemp("grid"), names, frames=30), validation_clips=0
    )
    lips = []
    for clip in data.train:
        words = sentence_of_name(clip.name)
        assert words is not None
        lips.append(SpokenClip(clip, spoken(*words), features="mel"))
    return lips


def test_spliced_clips_show_each_word_of_its_own_clip(clips: list[SpokenClip]) -> None:
    first, second, third = clips
    sources = [first, first, second, first, third, first, first, first]
    shown, frames, edges = spliced(sources, 60, np.random.default_rng(3))
    assert len(edges) == 7
    for slot, source in enumerate(sources[1:-1]):
        inside = [t for t in range(60) if edges[slot] <= t + 0.5 < edges[slot + 1]]
        assert inside
        for t in inside:
            low, high = source.edges[slot + 1], source.edges[slot + 2]
            assert shown[t] is source
            assert low - 1 <= frames[t] <= high


def test_the_reader_learns(clips: list[SpokenClip], tmp_path: Path) -> None:
    stage = StageConfig(
        steps=30, batch=2, learning_rate=3e-3, warmup_steps=1, validate_every=30,
        checkpoint_every=30, log_every=10, ema=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    task = LipsTask(LipReader(TINY), clips, clips)
    task.fit()
    task.prepare()
    batch = task.batch(np.array([0, 1, 2]), torch.Generator().manual_seed(5))

    def losses() -> dict[str, float]:
        task.model.eval()
        with torch.no_grad():
            found = task.loss(batch, torch.Generator())
        return {name: float(value) for name, value in found.items()}

    before = losses()
    figures = Trainer(task, stage, tmp_path, autocast=False).run()
    after = losses()
    assert all(after[name] < before[name] for name in ("words", "where", "phones"))
    places = {f"word_error_{slot}" for slot in SLOTS}
    commands = {"word_error_bin", "word_error_lay", "word_error_set"}
    assert set(figures) == {"word_error", *places, *commands}
    assert figures["word_error"] == pytest.approx(np.mean([figures[name] for name in commands]))


def test_people_with_fewer_clips_count_more_and_lend_each_other_words(
    clips: list[SpokenClip],
) -> None:
    ann, bob = [copy.copy(clip) for clip in clips] * 2, copy.copy(clips[0])
    for clip in ann:
        clip.person = "ann"
    bob.person = "bob"
    task = LipsTask(LipReader(TINY), [*ann, bob], [bob])
    assert task.examples == len(ann) + 2
    assert task.describe(np.arange(task.examples)).count(bob.name) == 2 + 2
    task.prepare()
    rng = np.random.default_rng(0)
    lent = {task._other(p, letter, rng).person for p in ("ann", "bob") for letter in (True, False)
            for _ in range(20)}  # fmt: skip
    assert lent == {"ann", "bob"}
    assert "word_error_bob" in task.validate()


def test_the_words_that_were_learned_are_known(clips: list[SpokenClip]) -> None:
    task = LipsTask(LipReader(TINY), clips[:2], clips)
    assert task.words_learned[0] == ("bin", "lay")
    assert task.words_learned[3] == ("f", "m")


def test_word_times_are_asked_for(clips: list[SpokenClip], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="word times"):
        job(Dataset(size_px=64, train=[], validation=[]), ExpertOptions(run=tmp_path))


def test_reading_gives_chances_of_every_word(clips: list[SpokenClip]) -> None:
    torch.manual_seed(0)
    net = LipReader(TINY).eval()
    chances = read(net, clips[0].views, clips[0].points)
    assert [len(one) for one in chances] == [len(slot) for slot in GRAMMAR]
    assert np.allclose([one.sum() for one in chances], 1, atol=1e-5)
    flipped = mirrored(torch.from_numpy(clips[0].points))
    turned = read(net, clips[0].views[:, :, ::-1].copy(), flipped.numpy())
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(chances, turned, strict=True))


def test_frames_without_a_face_are_filled() -> None:
    points = np.stack([face_points(shift=(0.1 * i, 0)) for i in range(4)])
    gaps = points.copy()
    gaps[[1, 3]] = np.nan
    whole = filled(gaps)
    assert np.allclose(whole[1], points[1], atol=1e-6)
    assert np.array_equal(whole[3], points[2])


def make_clip(folder: Path, name: str) -> tuple[Footage, FaceTrack]:
    """A drawn video of a talking face and where its points are."""
    frames, size = 12, 64
    times_s = np.arange(frames) / 25
    points = np.stack([face_points(0.08 * (i % 4)) for i in range(frames)])
    path, rng = folder / f"{name}.mp4", np.random.default_rng(0)
    with VideoWriter(path, width=size, height=size, fps=25, time_base=Fraction(1, 25)) as writer:
        for i, one in enumerate(points):
            writer.write(draw_face(one, size, rng), i)
    crop = CropTrack(
        centre_px=np.full((frames, 2), size / 2, np.float32),
        side_px=np.full(frames, size, np.float32),
    )
    made = FaceTrack(times_s=times_s, points_px=points * size)
    found = np.ones(frames, bool)
    framing = Framing(
        crop=crop, points_crop=points, found=found, boxes=np.zeros((frames, 4), np.int32)
    )
    located = TrackedFootage(video=path, info=probe_video(path), track=made, framing=framing)
    return Footage(path=path, size_px=size, located=located, locate_seconds=0), made


def test_judges_give_figures_where_words_are_known(tmp_path: Path) -> None:
    net = LipReader(TINY)
    expert.write(
        tmp_path / "lips", kind="lips", config=dataclasses.asdict(TINY), weights=net.state_dict(),
        facts={"unseen": {}}, card="a card",
    )  # fmt: skip
    clip, made = make_clip(tmp_path, "bbaf2n")
    judge = LipJudge(tmp_path / "lips")
    output = Output(video=clip.path, audio=clip.path, voice=clip)
    figures = judge.judge(clip, output, made)
    assert figures["word_error"] == word_error(judge.words(clip, output, made), SENTENCE)
    silent = dataclasses.replace(output, voice=None)
    assert judge.judge(clip, silent, made) == {}

    def figures_of(words: list[list[str]]) -> Figures:
        """What a judge says that has learned these words alone."""
        expert.write(
            tmp_path / "lips", kind="lips", config=dataclasses.asdict(TINY),
            weights=net.state_dict(), facts={"unseen": {}, "words": words}, card="a card",
        )  # fmt: skip
        return LipJudge(tmp_path / "lips").judge(clip, output, made)

    (tmp_path / "bbaf2n.align").write_text("0 2500 sil\n2500 5500 b\n5500 10000 aa\n")
    words = [list(slot) for slot in GRAMMAR]
    words[0] = ["lay", "place", "set"]
    assert figures_of(words)["word_error"] == word_error(
        judge.words(clip, output, made)[1:], SENTENCE[1:]
    )
    assert figures_of([["lay"], ["red"], ["by"], ["a"], ["nine"], ["soon"]]) == {}

    closing = ClosureJudge(tmp_path)
    assert closing.judge(clip, output, made) == {"closure": 1.0}
    assert closing.judge(clip, silent, made) == {}
    with pytest.raises(UsageError, match="no folder"):
        ClosureJudge(tmp_path / "none")
    with pytest.raises(UsageError, match=r"holds no \.align file.*such as alignments/s1"):
        ClosureJudge(tmp_path / "lips")


def test_every_place_of_the_grammar_can_be_right_or_wrong() -> None:
    pairs = list(product(*(slot[:2] for slot in GRAMMAR)))
    counts = {round(6 * word_error(pair, pairs[0])) for pair in pairs}
    assert counts == set(range(7))


def test_the_packaged_reader_opens_and_is_light() -> None:
    if "lips" not in expert.packaged():
        pytest.skip("no packaged lip reader in this checkout")
    judge = LipJudge()
    unseen = judge.facts["unseen"]
    weights = expert.PACKAGED / "lips" / "model.safetensors"
    assert weights.stat().st_size < 4_000_000
    assert unseen["word_error"] == pytest.approx(
        np.mean([unseen[f"word_error_{slot}"] for slot in SLOTS])
    )
