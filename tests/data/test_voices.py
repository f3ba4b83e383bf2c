"""Other voices: pitch, vocal tract, room and noise change as asked, what is said when does not."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker import config as configs
from difftalker.data.dataset import load_dataset
from difftalker.data.prepare import PrepareConfig, features_file, prepare
from difftalker.data.voices import PITCHES, TRACTS, Voice, by_others, spoken_by
from difftalker.landmarks.completion import CompletionNet
from difftalker.media.audio import stream_audio
from difftalker.media.video import VideoWriter, read_frames
from difftalker.packaged import samples
from difftalker.training.tasks import LandmarkTask
from helpers import write_dataset

Floats = NDArray[np.float32]

RATE_HZ = 16_000


def vowel(pitch_hz: float = 120, formant_hz: float = 800, seconds: float = 2) -> Floats:
    """Harmonics under one formant."""
    times_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound = np.zeros_like(times_s)
    for hz in np.arange(pitch_hz, 3 * formant_hz, pitch_hz):
        size = np.exp(-(((hz - formant_hz) / 250) ** 2))
        sound += size * np.sin(2 * np.pi * hz * times_s + hz)
    return np.asarray(0.1 * sound / sound.std(), np.float32)


def pitch_hz(sound: Floats) -> float:
    middle = sound[8000:24000].astype(np.float64)
    alike = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    return RATE_HZ / (40 + int(np.argmax(alike[40:250])))


def formant_hz(sound: Floats) -> float:
    power = np.abs(np.fft.rfft(sound[8000:24000])) ** 2
    hz = np.fft.rfftfreq(16000, 1 / RATE_HZ)
    return float((hz * power)[hz < 2000].sum() / power[hz < 2000].sum())


def loudness(sound: Floats) -> NDArray[np.float64]:
    """Root mean square over every 40 ms."""
    frames = sound[: len(sound) // 640 * 640].reshape(-1, 640).astype(np.float64)
    return np.asarray(np.sqrt((frames**2).mean(1)))


def speech() -> Floats:
    return np.concatenate(list(stream_audio(samples.speech())))


@pytest.mark.parametrize(
    ("pitch", "tract"),
    [(0.7, 0.85), (0.7, 1.0), (1, 0.85), (1, 1), (1, 1.2), (1.5, 1.0), (1.5, 1.2), (1.9, 1.15)],
)
def test_pitch_and_formants_move_apart_from_each_other(pitch: float, tract: float) -> None:
    before = vowel()
    after = spoken_by(Voice(pitch=pitch, tract=tract), before, RATE_HZ)
    assert after.shape == before.shape
    assert after.dtype == np.float32
    assert pitch_hz(after) / pitch_hz(before) == pytest.approx(pitch, rel=0.02)
    assert formant_hz(after) / formant_hz(before) == pytest.approx(tract, rel=0.04)


def test_a_voice_that_is_none_changes_little() -> None:
    before = speech()
    after = spoken_by(Voice(), before, RATE_HZ)
    assert np.corrcoef(before, after)[0, 1] > 0.999


@pytest.mark.parametrize("seed", range(6))
def test_what_is_said_when_stays(seed: int) -> None:
    rng, before = np.random.default_rng(seed), speech()
    after = spoken_by(Voice.drawn(rng), before, RATE_HZ, rng)
    a, b = loudness(before), loudness(after)
    shifts = range(-5, 6)
    alike = [np.corrcoef(a[5:-5], np.roll(b, -shift)[5:-5])[0, 1] for shift in shifts]
    assert max(alike) > 0.75
    assert abs(shifts[int(np.argmax(alike))]) <= 1
    assert np.sqrt((after**2).mean()) == pytest.approx(np.sqrt((before**2).mean()), rel=0.05)


def test_noise_and_room_are_as_loud_as_asked() -> None:
    before = speech()
    plain = spoken_by(Voice(), before, RATE_HZ)
    noisy = spoken_by(Voice(noise_db=15), before, RATE_HZ)
    scale = float(plain @ noisy) / float(plain @ plain)
    gap_db = 10 * np.log10(np.square(scale * plain).sum() / np.square(noisy - scale * plain).sum())
    assert gap_db == pytest.approx(15, abs=0.5)
    click = np.zeros(RATE_HZ, np.float32)
    click[4000:4032] = 0.5
    heard = spoken_by(Voice(room_s=0.4, direct_db=6), click, RATE_HZ)
    early, late = (float(np.square(heard[s]).sum()) for s in (slice(3500, 4400), slice(5000, None)))
    assert float(np.square(heard[:3000]).sum()) < 1e-3 * early
    assert 1e-3 * early < late < early


def test_drawn_voices_lie_within_their_bounds_and_differ() -> None:
    voices = [Voice.drawn(np.random.default_rng(seed)) for seed in range(200)]
    assert all(PITCHES[0] <= v.pitch <= PITCHES[1] for v in voices)
    assert all(TRACTS[0] <= v.tract <= TRACTS[1] for v in voices)
    assert np.corrcoef([v.pitch for v in voices], [v.tract for v in voices])[0, 1] > 0.5
    assert 60 < sum(v.room_s > 0 for v in voices) < 140


def test_a_stream_is_the_same_in_blocks_of_any_size() -> None:
    sound = np.tile(speech(), 8)[: 23 * RATE_HZ]
    cuts = np.sort(np.random.default_rng(0).integers(0, len(sound), 17))
    made = [
        np.concatenate(list(by_others(blocks, RATE_HZ, np.random.default_rng(5))))
        for blocks in ([sound], np.split(sound, cuts))
    ]
    np.testing.assert_array_equal(made[0], made[1])
    assert len(made[0]) == len(sound)


@pytest.mark.parametrize("samples_in", [1, 100, 1023, 1500])
def test_sound_may_be_short_or_silent(samples_in: int) -> None:
    rng = np.random.default_rng(0)
    for sound in (np.zeros(samples_in, np.float32), vowel()[:samples_in]):
        after = spoken_by(Voice.drawn(rng), sound, RATE_HZ, rng)
        assert after.shape == sound.shape
        assert np.isfinite(after).all()


def test_a_dataset_holds_other_voices_and_takes_more_later(tmp_path: Path) -> None:
    video, dataset = tmp_path / "said.mp4", tmp_path / "data"
    frames = list(islice(read_frames(samples.footage()), 20))
    height, width = frames[0].image.shape[:2]
    with VideoWriter(
        video,
        width=width,
        height=height,
        fps=25,
        time_base=Fraction(1, 25),
        audio=samples.speech(),
    ) as writer:
        for i, frame in enumerate(frames):
            writer.write(frame.image, i)
    for voices in (0, 2, 1):
        config = PrepareConfig(size_px=64, features=("mel",), voices=voices)
        prepare([video], dataset, config, workers=1)
        if not voices:
            cut_ns = (dataset / "clips" / "said" / "frames.npy").stat().st_mtime_ns
    [clip] = load_dataset(dataset, validation_clips=0).train
    assert (dataset / "clips" / "said" / "frames.npy").stat().st_mtime_ns == cut_ns
    assert clip.voices("mel") == 2
    own, *others = clip.windows_of_all("mel", 16)
    assert [one.shape for one in others] == [own.shape] * 2
    assert not np.array_equal(others[0], others[1])
    np.testing.assert_array_equal(own, clip.windows("mel", 16))


def test_landmarks_are_learned_from_all_voices(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data")
    config = configs.debug().model.completion

    def fitted() -> NDArray[np.float32]:
        data = load_dataset(dataset, validation_clips=0)
        task = LandmarkTask(CompletionNet(config), data, span=12)
        task.fit()
        assert task.model.least_squares is not None
        return task.model.least_squares.from_speech.numpy().copy()

    alone = fitted()
    for folder in (dataset / "clips").iterdir():
        heard = np.load(folder / "mel.npy")
        noise = np.random.default_rng(0).normal(0, 0.5, heard.shape)
        np.save(folder / features_file("mel", 1), (heard + noise).astype(np.float16))
    assert not np.allclose(fitted(), alone, rtol=1e-3)
