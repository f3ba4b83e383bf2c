"""``difftalker live``: what it takes, and the video that it writes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest

from difftalker.cli import main
from difftalker.dubbing.live_run import RawStream, SpokenFile
from difftalker.media.live_writer import LiveWriter
from media.made import tone, write_sound

RATE_HZ = 16_000


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), "no speech, or two"),
        (("--audio", "x.wav", "--microphone"), "no speech, or two"),
        (("--audio", "x.wav", "--output", "-", "--json"), "together with --json"),
        (("--audio", "missing.wav"), "missing.wav"),
    ],
)
def test_wrong_use_ends_in_one_line(
    words: tuple[str, ...], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["live", "--avatar", "grid-s1", *words]) != 0
    said = capsys.readouterr()
    message = said.err if "--json" not in words else said.err + said.out
    assert found in message


def test_a_file_is_heard_as_if_it_was_spoken_now(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "speech.wav", tone(RATE_HZ, 1.0), RATE_HZ)
    now = [50.0]
    source = SpokenFile(str(path), now=lambda: now[0])
    source.start()
    parts = []
    for _ in range(12):
        parts.append(source.hear())
        now[0] += 0.1
    assert {len(part) for part in parts[1:10]} <= {1599, 1600, 1601}
    assert source.ended
    assert sum(map(len, parts)) == RATE_HZ


def test_raw_samples_come_from_a_stream() -> None:
    samples = (np.arange(-2000, 2000) * 16).astype("<i2")
    source = RawStream(io.BytesIO(samples.tobytes()))
    source._read()
    heard = source.hear()
    np.testing.assert_array_equal(heard, samples.astype(np.float32) / 32768)
    assert source.ended


def test_pictures_and_sound_are_written_as_they_come(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    with LiveWriter(str(out), width=63, height=40, fps=25, comment="made") as writer:
        for number in range(0, 50, 2):
            writer.play(np.full(1280, 0.1, np.float32))
            writer.show(np.full((40, 63, 3), number, np.uint8), number)
        assert not out.exists()
    with av.open(str(out)) as container:
        times = [frame.time for frame in container.decode(video=0)]
        np.testing.assert_allclose(times, np.arange(0, 2, 0.08), atol=1e-6)
        assert container.metadata["comment"] == "made"
    with av.open(str(out)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert abs(samples - 2 * RATE_HZ) <= 2048
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_nothing_is_left_of_a_video_that_failed(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"

    def fail() -> None:
        with LiveWriter(str(out), width=64, height=40, fps=25, comment="") as writer:
            writer.show(np.zeros((40, 64, 3), np.uint8), 0)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


def test_the_command_speaks_and_tells_how_it_went(
    live_avatar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speech = write_sound(tmp_path / "speech.wav", tone(RATE_HZ, 0.6), RATE_HZ)
    out = tmp_path / "out.mkv"
    words = ["live", "--audio", str(speech), "--avatar", str(live_avatar), "-o", str(out)]
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["output"] == str(out)
    # The speech, the time that a frame waits, and the tail.
    shown = record["frames"] + record["frames_left_out"]
    assert 1.2 < shown / 25 < 1.7
    assert record["first_frame_ms"] > 0
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == record["frames"]
