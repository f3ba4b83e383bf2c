"""Footage that is not to be trusted: limits, names in files, and decoders that fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from difftalker.errors import MediaError, UsageError
from difftalker.media import decoder
from difftalker.media.audio import read_audio
from difftalker.media.limits import Limits, limited
from difftalker.media.timeline import fit
from difftalker.media.video import probe_video, read_frames

TIME_BASE = Fraction(1, 25)


# Limits


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 64 x 48 pixels with sound."""
    path = tmp_path_factory.mktemp("limits") / "a.mkv"
    with av.open(str(path), "w") as out:
        picture = out.add_stream("ffv1", rate=25)
        sound = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        picture.width, picture.height, picture.pix_fmt = 64, 48, "bgr0"
        for index in range(50):
            frame = VideoFrame.from_ndarray(np.full((48, 64, 3), index, np.uint8), "rgb24")
            frame = frame.reformat(format="bgr0")
            frame.pts, frame.time_base = index, TIME_BASE
            out.mux(picture.encode(frame))
        samples = np.full((1, 32_000), 9000, np.int16)
        block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        block.sample_rate, block.pts = 16_000, 0
        out.mux(sound.encode(block))
        for track in (picture, sound):
            out.mux(track.encode(None))
    return path


@pytest.mark.parametrize(
    ("limits", "option"),
    [
        (Limits(pixels=64 * 48 - 1), "--max-pixels"),
        (Limits(duration_s=1.5), "--max-duration"),
        (Limits(frames=49), "--max-frames"),
        (Limits(decoded_gb=64 * 48 * 3 * 49 / 1e9), "--max-decoded"),
    ],
)
def test_what_is_beyond_a_limit_is_refused(footage: Path, limits: Limits, option: str) -> None:
    exactly = Limits(pixels=64 * 48, duration_s=2, frames=50, decoded_gb=64 * 48 * 3 * 50 / 1e9)
    with limited(exactly):
        assert len(list(read_frames(footage))) == 50
        assert len(read_audio(footage)) == 32_000
    with limited(limits), pytest.raises(MediaError, match=option):
        list(read_frames(footage))
    if option == "--max-duration":
        with limited(limits), pytest.raises(MediaError, match=option):
            read_audio(footage)
    assert len(list(read_frames(footage))) == 50, "limits end with their block"


def test_an_hour_of_4k_is_within_the_limits() -> None:
    default, frames, pixels = Limits(), 3600 * 60, 4096 * 2160
    assert default.pixels >= 8192 * 4320
    assert default.duration_s >= 3600
    assert default.frames >= frames
    assert default.decoded_gb * 1e9 >= frames * pixels * 3
    with pytest.raises(UsageError, match="pixels"):
        Limits(pixels=0)


@pytest.mark.parametrize("mode", ["pad", "loop", "pingpong"])
def test_an_output_without_end_is_refused(footage: Path, mode: str) -> None:
    info, times_s = probe_video(footage), np.arange(50) / 25
    with limited(Limits(frames=1000)):
        assert len(fit(times_s, info, mode, 30).source) == 750  # type: ignore[arg-type]
        with pytest.raises(MediaError, match="--max-frames"):
            fit(times_s, info, mode, 1e9)  # type: ignore[arg-type]


# Names in files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile '{}'\n"),
        ("list.mp4", "ffconcat version 1.0\nfile '{}'\n"),
        (
            "list.mpd",
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
            "<Period><AdaptationSet><Representation id='1' bandwidth='1' mimeType='video/mp4'>"
            "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        ),
        ("list.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"),
        ("list.txt", "hello " * 300),
    ],
)
def test_a_file_that_names_others_is_no_media(
    tmp_path: Path, footage: Path, name: str, content: str
) -> None:
    beside = tmp_path / "beside.mkv"
    beside.write_bytes(footage.read_bytes())
    for target in (
        beside,
        beside.name,
        f"file:{beside}",
        f"concat:{beside}",
        f"subfile,,:{beside}",
    ):
        path = tmp_path / name
        path.write_text(content.format(target))
        with pytest.raises(MediaError, match="is not a media file"):
            list(read_frames(path))
        with pytest.raises(MediaError, match="is not a media file"):
            read_audio(path)


@pytest.mark.parametrize("protocol", ["concat:", "subfile,,start,0,end,0,,:", "file:", "data:"])
def test_a_path_is_never_a_protocol(
    tmp_path: Path, footage: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MediaError, match="no such file"):
        probe_video(f"{protocol}{footage}")
    monkeypatch.chdir(tmp_path)
    odd = Path(f"{protocol.replace('/', '')}a.mkv")
    odd.write_bytes(footage.read_bytes())
    assert probe_video(odd).width == 64


# Decoders


@pytest.fixture
def idle_ended() -> Iterator[None]:
    """No decoder is left from before, nor to those who come after."""
    decoder.end_idle()
    yield
    decoder.end_idle()


def the_decoder(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process ids of the decoders that are started from now on."""
    pids: list[int] = []

    class Noted(decoder._Decoder):
        def __init__(self) -> None:
            super().__init__()
            pids.append(self._process.pid)

    monkeypatch.setattr(decoder, "_Decoder", Noted)
    return pids


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("idle_ended")
def test_a_crashed_decoder_is_an_error_of_ours(
    footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = the_decoder(monkeypatch)
    frames = read_frames(footage)
    next(frames)
    os.kill(pids[0], signal.SIGSEGV)
    with pytest.raises(MediaError, match=r"a\.mkv is damaged: its decoder crashed \(-11\)"):
        list(frames)
    assert len(list(read_frames(footage))) == 50, "the next one is asked"
    assert len(pids) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("idle_ended")
def test_a_decoder_that_hangs_is_given_up(footage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "PATIENCE_S", 1)
    pids = the_decoder(monkeypatch)
    frames = read_frames(footage)
    next(frames)
    os.kill(pids[0], signal.SIGSTOP)
    with pytest.raises(MediaError, match="did not answer for 1 s"):
        list(frames)


@pytest.mark.usefixtures("idle_ended")
def test_a_decoder_is_kept_for_the_next_request(
    footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = the_decoder(monkeypatch)
    for _ in range(3):
        next(read_frames(footage))  # left early
        with pytest.raises(MediaError):
            probe_video(footage.with_name("none.mkv"))
        assert len(read_audio(footage)) == 32_000
    assert len(pids) == 1
    side_by_side = [read_frames(footage) for _ in range(3)]
    for images in zip(*side_by_side, strict=True):
        assert images[0].pts == images[1].pts == images[2].pts
    assert len(pids) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_a_decoder_ends_with_its_parent(footage: Path) -> None:
    script = (
        "import sys, time; from difftalker.media.video import read_frames;"
        "frames = read_frames(sys.argv[1]); next(frames); print('ready', flush=True);"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(footage)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert len(children) == 1
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 20
    while Path(f"/proc/{children[0]}").exists() and time.monotonic() < end:
        state = Path(f"/proc/{children[0]}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{children[0]}").exists()
