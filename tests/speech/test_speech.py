"""Speech: against reference implementations, hand-built windows and the whole computed at once."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import compare_whisper
from difftalker.errors import AssetError, MediaError, UsageError
from difftalker.speech.encoder import (
    FEATURE_RATE_HZ,
    SHORT_WINDOWS,
    LogMelEncoder,
    ShortWhisperEncoder,
    WhisperEncoder,
    WindowConfig,
    encode_all,
)
from difftalker.speech.registry import ENCODERS, load_encoder
from difftalker.speech.whisper import (
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
    WhisperNet,
    load_whisper,
    log_mel,
    mel_filters,
    read_ctranslate2,
)

Floats = NDArray[np.float32]
TOLERANCE = compare_whisper.TOLERANCE


@pytest.fixture(scope="module")
def whisper() -> WhisperEncoder:
    try:
        return WhisperEncoder()
    except AssetError as error:
        pytest.skip(f"Whisper's weights cannot be had: {error}")


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float32]]:
    with np.load(compare_whisper.GOLDEN) as stored:
        return dict(stored)


def noise(samples: int, seed: int = 0) -> Floats:
    """Noise whose loudness changes every half second, so that windows differ."""
    generator = np.random.default_rng(seed)
    gains = generator.uniform(0.01, 0.2, samples // 8000 + 1).repeat(8000)[:samples]
    return (gains * generator.standard_normal(samples)).astype(np.float32)


# Against the references


def test_log_mel_is_the_references(golden: dict[str, Floats]) -> None:
    window = compare_whisper.padded(compare_whisper.synthetic_speech())
    mel = log_mel(torch.from_numpy(window)).numpy()
    np.testing.assert_allclose(mel[:, 2 * golden["rows"].astype(int)], golden["mel"], atol=1e-4)
    np.testing.assert_allclose(mel.sum(1), golden["mel_sum"], atol=0.1)


def test_whisper_is_the_references(whisper: WhisperEncoder, golden: dict[str, Floats]) -> None:
    rows = golden["rows"].astype(int)
    samples = compare_whisper.synthetic_speech()
    full = encode_all(whisper, [compare_whisper.padded(samples)])
    np.testing.assert_allclose(full[rows], golden["features"], atol=TOLERANCE)
    short = encode_all(whisper, [samples])
    assert short.shape == (150, 384)
    inside = rows < 150
    np.testing.assert_allclose(short[rows[inside]], golden["features"][inside], atol=TOLERANCE)


def test_whisper_is_ctranslate2s(whisper: WhisperEncoder, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason="the reference encoder is a developer extra")
    samples = compare_whisper.synthetic_speech(30)
    mel = log_mel(torch.from_numpy(samples)).numpy()
    wanted = compare_whisper.reference_features(compare_whisper.reference_model(tmp_path), mel)
    np.testing.assert_allclose(encode_all(whisper, [samples]), wanted, atol=TOLERANCE)


def test_mel_filters_have_unit_area() -> None:
    filters = mel_filters().numpy()
    assert filters.shape == (80, 201)
    # Above 2 kHz a triangle spans several of the 40 Hz bins, so that their sum is its area.
    np.testing.assert_allclose(filters[45:].sum(1) * 40, 1, atol=0.03)
    assert (np.diff(filters.argmax(1)) >= 0).all()


# Streaming


@settings(max_examples=25, deadline=None)
@given(length=st.integers(0, 70_000), cuts=st.lists(st.integers(0, 70_000), max_size=6))
def test_every_started_feature_is_given(length: int, cuts: list[int]) -> None:
    samples = noise(length)
    blocks = np.split(samples, sorted(min(cut, length) for cut in cuts))
    features = encode_all(LogMelEncoder(), blocks)
    assert features.shape == (math.ceil(length / 320), 80)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, encode_all(LogMelEncoder(), [samples]))


@pytest.mark.parametrize("extra", [-1, 0, 1, 320, 25 * 16_000, 25 * 16_000 + 1, 40 * 16_000])
def test_long_speech_is_cut_without_gaps(extra: int) -> None:
    samples = noise(WINDOW_SAMPLES + extra)
    features = encode_all(LogMelEncoder(), np.array_split(samples, 17))
    assert len(features) == math.ceil(len(samples) / 320)
    np.testing.assert_array_equal(features, encode_all(LogMelEncoder(), [samples]))


def test_windows_of_long_speech_are_crossfaded() -> None:
    """Window k covers [25 k, 25 k + 30] s; the fade is in the middle second of the overlap."""
    encoder = LogMelEncoder()
    samples = noise(60 * SAMPLE_RATE_HZ)
    # What follows the loud start is below the first window's floor, but above the second's.
    samples[5 * SAMPLE_RATE_HZ :] *= 3e-5
    features = encode_all(encoder, [samples])
    first, second, third = (
        encode_all(encoder, [samples[start * SAMPLE_RATE_HZ :][:WINDOW_SAMPLES]])
        for start in (0, 25, 50)
    )
    np.testing.assert_array_equal(features[:1350], first[:1350])
    np.testing.assert_array_equal(features[1400:2600], second[150:1350])
    np.testing.assert_array_equal(features[2650:], third[150:])
    weight = ((np.arange(1350, 1400) - 1374.5) / 50 + 0.5)[:, None]
    blend = (1 - weight) * first[1350:1400] + weight * second[100:150]
    assert np.abs(first[1350:1400] - second[100:150]).max() > 1e-3
    np.testing.assert_allclose(features[1350:1400], blend, atol=1e-5)


def test_whisper_streams_long_speech(whisper: WhisperEncoder) -> None:
    samples = compare_whisper.synthetic_speech(42)
    chunks = list(whisper.encode(np.array_split(samples, 9)))
    assert [len(chunk) for chunk in chunks] == [1250, 850]
    first, second = (encode_all(whisper, [samples[at:][:WINDOW_SAMPLES]]) for at in (0, 400_000))
    np.testing.assert_allclose(chunks[0], first[:1250], atol=1e-4)
    np.testing.assert_allclose(chunks[1][150:], second[150:], atol=1e-4)


def test_short_windows_are_crossfaded() -> None:
    """Window k covers [2 k, 2 k + 4] s, unpadded; the fade is in the middle of the overlap."""
    encoder = LogMelEncoder(config=SHORT_WINDOWS)
    samples = noise(7 * SAMPLE_RATE_HZ + 100)
    features = encode_all(encoder, np.array_split(samples, 5))
    assert features.shape == (351, 80)
    first, second, third = (
        encode_all(encoder, [samples[start * SAMPLE_RATE_HZ :][: 4 * SAMPLE_RATE_HZ]])
        for start in (0, 2, 4)
    )
    assert third.shape == (151, 80)
    np.testing.assert_array_equal(features[:140], first[:140])
    np.testing.assert_array_equal(features[160:240], second[60:140])
    np.testing.assert_array_equal(features[260:], third[60:])


def test_short_whisper_says_the_same_in_long_speech(whisper: WhisperEncoder) -> None:
    """Why it is there: words keep their features when speech stands before them."""
    samples = compare_whisper.synthetic_speech()
    long = np.concatenate([compare_whisper.synthetic_speech(26), samples])

    def change(encoder: WhisperEncoder) -> float:
        own = encode_all(encoder, [samples])
        amid = encode_all(encoder, [long])[-len(own) :]
        return float(np.sqrt(((own - amid) ** 2).mean()) / own.std())

    short = ShortWhisperEncoder()
    assert len(encode_all(short, [samples[:100]])) == 1
    assert change(short) < 0.8 * change(whisper)


@pytest.mark.parametrize(
    "wrong",
    [{"window_s": 31.0}, {"overlap_s": 30.0}, {"fade_s": 6.0}, {"fade_s": 0.0}, {"window_s": 9.99}],
)
def test_windows_that_do_not_fit_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="wanted"):
        WindowConfig(**wrong)  # type: ignore[arg-type]


def test_no_more_is_read_than_a_window() -> None:
    read = 0

    def endless() -> Iterator[Floats]:
        nonlocal read
        while True:
            read += 1
            yield np.zeros(SAMPLE_RATE_HZ, np.float32)

    chunks = LogMelEncoder().encode(endless())
    assert read == 0
    assert len(next(chunks)) == 1250
    assert read == 31
    assert len(next(chunks)) == 1250
    assert read == 56


def test_silence_is_constant(whisper: WhisperEncoder) -> None:
    silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
    np.testing.assert_array_equal(encode_all(LogMelEncoder(), [silence]), -1.5)
    assert np.isfinite(encode_all(whisper, [silence])).all()


def test_mel_feature_stands_at_its_time() -> None:
    samples = np.zeros(SAMPLE_RATE_HZ, np.float32)
    samples[8160] = 1
    loudness = encode_all(LogMelEncoder(), [samples]).mean(1)
    assert loudness.argmax() == int(8160 / SAMPLE_RATE_HZ * FEATURE_RATE_HZ)


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (np.zeros((2, 100), np.float32), r"shape \(2, 100\)"),
        (np.array([0, np.nan], np.float32), "not finite"),
        (np.array([0, -np.inf], np.float32), "not finite"),
    ],
)
def test_unusable_samples_are_refused(block: Floats, found: str) -> None:
    with pytest.raises(MediaError, match=found):
        encode_all(LogMelEncoder(), [block])


def test_encoders_by_name() -> None:
    assert load_encoder("mel").dim == 80
    assert {"whisper", "mel"} <= set(ENCODERS)
    with pytest.raises(UsageError, match=r"'hubert'.*whisper or whisper-short or .* or mel"):
        load_encoder("hubert")


# The file format


def ctranslate2_file(variables: dict[str, NDArray[np.generic]], *, version: int = 6) -> bytes:
    """The bytes of a model file, written from the format's description."""
    kinds = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    out = struct.pack("<I", version) + string("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        out += string(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += struct.pack("<BI", kinds[array.dtype.name], array.nbytes) + array.tobytes()
    return out + struct.pack("<I", 0)


def test_file_is_read_as_float32(tmp_path: Path) -> None:
    half = np.arange(6, dtype=np.float16).reshape(2, 3)
    stored: dict[str, NDArray[np.generic]] = {
        "decoder/a": np.ones((2, 2), np.int8),
        "encoder/heads": np.array(6, np.int16),
        "encoder/half": half,
        "encoder/single": np.array([0.1], np.float32),
    }
    (tmp_path / "model.bin").write_bytes(ctranslate2_file(stored))
    read = read_ctranslate2(tmp_path / "model.bin", prefix="encoder/")
    assert list(read) == ["heads", "half", "single"]
    assert {array.dtype.name for array in read.values()} == {"float32"}
    assert read["heads"] == 6
    np.testing.assert_array_equal(read["half"], half)
    np.testing.assert_array_equal(read["single"], stored["encoder/single"])


GOOD = ctranslate2_file({"encoder/w": np.ones((2, 2), np.float32)})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"GIF89a, by no means a model", "format"),
        (GOOD[:20], "requires a buffer"),
        (GOOD[:-8], "ends within encoder/w"),
        (ctranslate2_file({"encoder/w": np.ones((2, 2), np.int8)}), "quantised"),
        (ctranslate2_file({}, version=5), "format 5"),
        (GOOD, "no Whisper encoder"),
    ],
    ids=["empty", "other", "header", "truncated", "int8", "version", "no-encoder"],
)
def test_other_files_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(AssetError, match=reason) as caught:
        load_whisper(tmp_path / "model.bin")
    assert "\n" not in str(caught.value)


def test_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"model\.bin cannot be read"):
        WhisperEncoder(weights=tmp_path / "model.bin")


def test_dimensions_live_in_the_file(whisper: WhisperEncoder) -> None:
    net = whisper.net
    assert isinstance(net, WhisperNet)
    assert (whisper.dim, len(net.layers), len(net.position_encodings)) == (384, 4, 1500)
    assert sum(p.numel() for p in net.parameters()) == 8_209_920
    assert not any(p.requires_grad for p in net.parameters())
