"""Characters: rates and decoding by hand, learning, packaging, and what they read."""

from __future__ import annotations

import functools
import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftalker.config import StageConfig
from difftalker.data.speech import encode_speech, grid_sentence, load_speech
from difftalker.errors import AssetError, MediaError, UsageError
from difftalker.media.audio import read_audio
from difftalker.packaged import samples
from difftalker.speech.characters import (
    ALPHABET,
    BLANK,
    CHARACTERS,
    CharactersConfig,
    CharactersEncoder,
    CharactersNet,
    character_error_rate,
    decode,
    edit_distance,
    encode_text,
    levels,
    load_characters,
)
from difftalker.speech.encoder import LogMelEncoder, encode_all
from difftalker.speech.registry import load_encoder
from difftalker.store import assets
from difftalker.store import experts as expert
from difftalker.training import characters_task, experts
from difftalker.training.characters_task import CharactersTask, Utterance
from difftalker.training.expert_job import ExpertOptions
from difftalker.training.trainer import Trainer
from helpers import write_dataset
from make_training_speech import altered
from spoken_text import sentences, spelled

SMALL = CharactersConfig(feature_dim=12, width=24, layers=2, kernel=5, dropout=0)
PACKAGED_SPEECH = samples.speech()
PACKAGED_TEXT = "my mouth is painted by a computer program watch how the lips move with every word"


@pytest.fixture(scope="module")
def encoder() -> CharactersEncoder:
    try:
        assets.path("whisper_tiny_en")
    except AssetError as error:
        pytest.skip(f"Whisper's weights cannot be had: {error}")
    return CharactersEncoder()


def path_of(text: str) -> torch.Tensor:
    """Posteriors whose best path is ``text``, with _ for the blank."""
    places = [BLANK if character == "_" else ALPHABET.index(character) for character in text]
    return torch.nn.functional.one_hot(torch.tensor(places), CHARACTERS).float()


# Texts


@pytest.mark.parametrize(
    ("path", "text"),
    [("hh_eel_llo__", "hello"), ("____", ""), ("aa_a a", "aa a"), ("d_onn_''t", "don't")],
)
def test_best_paths_are_read(path: str, text: str) -> None:
    assert decode(path_of(path)) == text


def test_texts_are_places_in_the_alphabet() -> None:
    assert encode_text("a z'") == [1, 0, 26, 27]
    assert (BLANK, CHARACTERS) == (28, 29)
    with pytest.raises(UsageError, match=r"'A' in 'bA'"):
        encode_text("bA")


@pytest.mark.parametrize(
    ("found", "true", "edits"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2), ("a", "a", 0)],
)
def test_edits_by_hand(found: str, true: str, edits: int) -> None:
    assert edit_distance(found, true) == edits


def test_rate_is_over_all_characters() -> None:
    assert character_error_rate(["sitting", "ab"], ["kitten", "abcd"]) == pytest.approx(5 / 10)
    assert character_error_rate(["abcdef"], ["a"]) == 5
    for found, true in ([], []), (["a"], []), ([""], [""]):
        with pytest.raises(UsageError):
            character_error_rate(found, true)


@given(st.text("ab", max_size=7), st.text("ab", max_size=7))
def test_edits_are_those_of_the_definition(found: str, true: str) -> None:
    @functools.cache
    def fewest(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        kept = fewest(i - 1, j - 1) + (found[i - 1] != true[j - 1])
        return min(kept, fewest(i - 1, j) + 1, fewest(i, j - 1) + 1)

    assert edit_distance(found, true) == fewest(len(found), len(true))


def test_grid_names_spell_sentences() -> None:
    assert grid_sentence("bbaf2n") == "bin blue at f two now"
    assert grid_sentence("id2_vcd_swwp2s") == "set white with p two soon"
    assert grid_sentence("lgbyzp") == "lay green by y zero please"
    for name in ("speech", "bbaf2", "bbaw2n", "holiday"):
        with pytest.raises(MediaError, match="does not say"):
            grid_sentence(name)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_random_sentences_can_be_written(seed: int) -> None:
    for text in sentences(20, seed, ["marabout", "Tilburg", "x-ray"]):
        assert encode_text(spelled(text))
        assert "Tilburg" not in text


@pytest.mark.parametrize("seed", range(4))
def test_altered_sounds_keep_what_is_said(seed: int) -> None:
    sound = np.random.default_rng(9).normal(0, 0.1, 8000).astype(np.float32)
    made = altered(sound, np.random.default_rng(seed))
    np.testing.assert_array_equal(made, altered(sound, np.random.default_rng(seed)))
    assert 0.01 < np.abs(made).max() <= 1
    # A pitch within a seventh, and up to half a second of silence at either end.
    assert 0.86 * len(sound) < len(made) < 1.16 * len(sound) + 16_000


# The network


def test_sentences_in_one_row_are_as_alone() -> None:
    torch.manual_seed(0)
    net = CharactersNet(SMALL).eval()
    one, other = torch.randn(1, 40, 12), torch.randn(1, 25, 12)
    gap = SMALL.kernel // 2
    row = torch.cat([one, torch.randn(1, gap, 12), other], 1)
    inside = (torch.arange(row.shape[1]) < 40) | (torch.arange(row.shape[1]) >= 40 + gap)
    together = net(row, inside[None])
    torch.testing.assert_close(together[:, :40], net(one))
    torch.testing.assert_close(together[:, 40 + gap :], net(other))
    torch.testing.assert_close(together.exp().sum(-1), torch.ones(1, len(inside)))


def test_levels_span_0_to_1() -> None:
    found = levels(torch.tensor([0.0, -5.0, -10.0, -30.0]))
    assert found.tolist() == [1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("change", [{"kernel": 4}, {"width": 0}, {"dropout": 1.0}])
def test_sizes_are_checked(change: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        CharactersConfig(**change)  # type: ignore[arg-type]


def spoken_like(text: str, seed: int) -> Utterance:
    """Features in which every character has its own direction for three steps, amid noise."""
    directions = np.random.default_rng(7).normal(0, 1, (len(ALPHABET), 12))
    steps = directions[encode_text(text)].repeat(3, axis=0)
    noise = np.random.default_rng(seed).normal(0, 0.1, steps.shape)
    return Utterance(text, (steps + noise).astype(np.float32), text)


def test_spelling_is_learned(tmp_path: Path) -> None:
    texts = [spelled(text) for text in sentences(48, 0)]
    train = [spoken_like(text, i) for i, text in enumerate(texts[:40])]
    watched = {"cer": [spoken_like(text, 100 + i) for i, text in enumerate(texts[40:])]}
    torch.manual_seed(0)
    task = CharactersTask(CharactersNet(SMALL), train, watched)
    stage = StageConfig(
        steps=160, batch=8, learning_rate=1e-2, warmup_steps=5, ema=0.9, validate_every=160
    )
    before = task.validate()["cer"]
    after = Trainer(task, stage, tmp_path, autocast=False).run()["cer"]
    assert before > 0.8
    assert after < 0.15


# Speech with its text


def write_speech(folder: Path, clips: list[dict[str, object]], seconds: float = 0.5) -> Path:
    folder.mkdir()
    for i, clip in enumerate(clips):
        sound = np.random.default_rng(i).integers(-2000, 2000, int(16_000 * seconds), np.int16)
        with wave.open(str(folder / f"{clip['name']}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(sound.tobytes())
    (folder / "speech.json").write_text(json.dumps({"version": 1, "clips": clips}))
    return folder


def clip_of(name: str, **changes: object) -> dict[str, object]:
    return {"name": name, "text": "ab", "voice": "v", "unseen": False, **changes}


@pytest.mark.parametrize(
    "change", [{"name": "../a"}, {"text": "Ab"}, {"text": "a  b"}, {"text": ""}]
)
def test_lists_of_speech_are_checked(tmp_path: Path, change: dict[str, str]) -> None:
    folder = write_speech(tmp_path / "s", [])
    clips = [{**clip_of("a"), **change}]
    (folder / "speech.json").write_text(json.dumps({"version": 1, "clips": clips}))
    with pytest.raises(MediaError, match=r"no list of speech.*make_training_speech"):
        load_speech(folder)


def test_another_version_of_the_list_is_refused(tmp_path: Path) -> None:
    folder = write_speech(tmp_path / "s", [])
    (folder / "speech.json").write_text(json.dumps({"version": 2, "clips": []}))
    with pytest.raises(MediaError, match="version 2"):
        load_speech(folder)


def test_features_of_speech_are_kept(tmp_path: Path) -> None:
    clips = load_speech(write_speech(tmp_path / "s", [clip_of("a"), clip_of("b")]))
    cache = tmp_path / "cache"
    first = encode_speech(clips, cache, features="mel", device="cpu")
    wanted = encode_all(LogMelEncoder(), [read_audio(clips[1].sound)])
    np.testing.assert_array_equal(first[1], wanted.astype(np.float16))
    made = (cache / "features.f16").stat().st_mtime_ns
    again = encode_speech(clips, cache, features="mel", device="cpu")
    assert (cache / "features.f16").stat().st_mtime_ns == made
    np.testing.assert_array_equal(again[0], first[0])
    assert len(encode_speech(clips[:1], cache, features="mel", device="cpu")) == 1


def test_an_expert_is_trained_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(characters_task, "FEATURES", "mel")
    dataset = write_dataset(tmp_path / "d", ("bbaf2n", "lgwh3s", "prii9a", "swbq5p"))
    speech = write_speech(
        tmp_path / "s",
        [
            *(clip_of(f"k{i}") for i in range(3)),
            clip_of("u", unseen=True),
            *(clip_of(f"{name}-0", clip=name) for name in ("lgwh3s", "prii9a")),
        ],
    )
    found = experts.train_expert(
        "characters",
        dataset,
        tmp_path / "e",
        speech=speech,
        validation_clips=1,
        steps=2,
        device="cpu",
    )
    assert set(found) == {"cer_grid", "cer_known_voices", "cer_unseen_voice"}
    files = expert.read(tmp_path / "e", kind="characters")
    assert (files.facts["clips_train"], len(files.facts["clips_unseen"])) == (3, 1)
    card = (tmp_path / "e" / "card.md").read_text()
    assert "CC BY 4.0" in card
    assert "hibari-tts" in card
    net = load_characters(tmp_path / "e")
    assert net(torch.randn(1, 7, 80)).shape == (1, 7, CHARACTERS)


def test_held_out_clips_are_heard_in_no_copy(tmp_path: Path) -> None:
    names = ["bbaf2n", "prii9a"]
    clips = [clip_of(f"{name}-0", clip=name) for name in names]
    spoken = load_speech(write_speech(tmp_path / "s", clips))
    options = ExpertOptions(run=tmp_path / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(characters_task, "FEATURES", "mel")
        train, watched = characters_task._further(spoken, {"bbaf2n"}, options)
    assert [heard.name for heard in train] == ["prii9a-0"]
    assert not any(watched.values())


def test_clips_that_spell_nothing_are_told(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(characters_task, "FEATURES", "mel")
        with pytest.raises(MediaError, match="the clip a does not say what is spoken"):
            experts.train_expert(
                "characters", write_dataset(tmp_path / "d"), tmp_path / "e", steps=1, device="cpu"
            )


# The packaged expert


def test_packaged_speech_is_read(encoder: CharactersEncoder) -> None:
    found = decode(encode_all(encoder, [read_audio(PACKAGED_SPEECH)]))
    assert character_error_rate([found], [PACKAGED_TEXT]) < 0.25


def test_characters_stream_at_any_cut(encoder: CharactersEncoder) -> None:
    sound = np.tile(read_audio(PACKAGED_SPEECH), 2)
    whole = encode_all(encoder, [sound])
    pieces = encode_all(encoder, np.split(sound, [1000, 50_000, 50_001]))
    assert whole.shape == (-(-len(sound) // 320), CHARACTERS)
    assert 0 <= whole.min() <= whole.max() <= 1
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


def test_characters_have_a_name(encoder: CharactersEncoder) -> None:
    found = load_encoder("characters")
    assert (found.name, found.dim) == ("characters", CHARACTERS)


def test_a_packaged_expert_that_does_not_fit_is_told(tmp_path: Path) -> None:
    net = CharactersNet(SMALL)
    expert.write(
        tmp_path / "e",
        kind="characters",
        config={"feature_dim": 12},
        weights=net.state_dict(),
        facts={},
        card="",
    )
    with pytest.raises(AssetError, match="does not fit"):
        load_characters(tmp_path / "e")
