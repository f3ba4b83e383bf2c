"""Footage of any kind: colours, high dynamic range, limits, and decoders that fail."""

from __future__ import annotations

import json
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
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from difftalker.dubbing.previews import save_report
from difftalker.errors import MediaError, UsageError
from difftalker.media import colour as colours
from difftalker.media import decoder
from difftalker.media.audio import read_audio
from difftalker.media.colour import SDR_WHITE_NITS, Colour, to_sdr
from difftalker.media.limits import Limits, limited
from difftalker.media.timeline import fit
from difftalker.media.video import Image, VideoWriter, probe_video, read_frames
from synthetic import debug_avatar, located, pictures, still_track, without, write_tone

TIME_BASE = Fraction(1, 25)


def write(
    path: Path,
    frames: list[VideoFrame],
    codec: str = "ffv1",
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames in their own pixel format and with their own colour tags, by plain PyAV."""
    first = frames[0]
    with av.open(str(path), "w") as out:
        track = out.add_stream(codec, rate=25, options=options)
        assert isinstance(track, VideoStream)
        context = track.codec_context
        context.width, context.height = first.width, first.height
        context.pix_fmt = first.format.name
        context.color_range, context.colorspace = first.color_range, first.colorspace
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, TIME_BASE
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


def patches(values: NDArray[np.float64], bits: int = 16) -> NDArray[np.uint16]:
    """Colours (n, 3) in 0 to 1 as squares side by side, (32, 32 n, 3)."""
    row = np.rint(values * (2**bits - 1)).astype(np.uint16)
    return np.repeat(np.repeat(row[None], 32, 0), 32, 1)


def middle(image: Image) -> NDArray[np.float64]:
    """The colours (n, 3) in the middle of such squares, 0 to 1."""
    return np.asarray(image[16, 16::32] / 255, np.float64)


# Colours


@pytest.mark.parametrize("hdr", ["pq", "hlg"])
def test_high_dynamic_range_is_brought_to_eight_bits(
    tmp_path: Path, hdr: colours.Hdr, caplog: pytest.LogCaptureFixture
) -> None:
    greys = np.repeat(np.linspace(0.05, 0.75, 8)[:, None], 3, 1)
    hues = np.array([[0.5, 0.4, 0.35], [0.45, 0.5, 0.42], [0.42, 0.4, 0.5]])
    signal_in = np.concatenate([greys, hues])
    picture = VideoFrame.from_ndarray(patches(signal_in), "rgb48le")
    picture = picture.reformat(format="yuv444p10le", dst_colorspace=9)
    picture.color_range, picture.colorspace, picture.color_primaries = 1, 9, 9
    picture.color_trc = {"pq": 16, "hlg": 18}[hdr]
    path = write(tmp_path / "a.mkv", [picture])
    info = probe_video(path)
    assert (info.hdr, info.pixel_format, info.colour) == (hdr, "yuv444p10le", Colour())
    shown = middle(next(read_frames(path)).image)
    np.testing.assert_allclose(shown, to_sdr(signal_in, hdr), atol=2.5 / 255)
    assert np.all(np.diff(shown[:8].mean(1)) > 0), "brighter stays brighter"
    assert np.ptp(shown[:8], axis=1).max() < 2 / 255, "grey stays grey"
    info.warn()
    assert "high dynamic range" in caplog.text


def test_the_curve_keeps_faces_and_bends_highlights_below_white() -> None:
    nits = np.array([[1.0], [50.0], [80.0], [203.0], [500.0], [1000.0], [4000.0]])
    bent = colours.bent(nits)
    np.testing.assert_allclose(bent[:3], nits[:3], rtol=1e-6)
    assert np.all(np.diff(bent[:6, 0]) > 0)
    assert bent[3] < SDR_WHITE_NITS
    np.testing.assert_allclose(bent[5:], SDR_WHITE_NITS, rtol=1e-6)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("matrix", "primaries", "transfer"), [(1, 1, 1), (6, 6, 6), (5, 5, 6)])
def test_range_and_matrix_are_read_and_kept(
    tmp_path: Path, matrix: int, primaries: int, transfer: int, full_range: bool
) -> None:
    wanted = np.array([[0.8, 0.2, 0.2], [0.2, 0.7, 0.3], [0.1, 0.2, 0.9], [0.02, 0.02, 0.02]])
    kind = Colour(matrix=matrix, primaries=primaries, transfer=transfer, full_range=full_range)
    rgb = VideoFrame.from_ndarray((patches(wanted) >> 8).astype(np.uint8), "rgb24")
    picture = rgb.reformat(
        format="yuv420p", dst_colorspace=matrix, dst_color_range=1 + int(full_range)
    )
    picture.colorspace, picture.color_range = matrix, 1 + int(full_range)
    picture.color_primaries, picture.color_trc = primaries, transfer
    source = write(tmp_path / "a.mp4", [picture] * 3, "libx264", {"crf": "4"})
    info = probe_video(source)
    assert info.colour == kind
    images = [frame.image for frame in read_frames(source)]
    np.testing.assert_allclose(middle(images[0]), wanted, atol=4 / 255)
    height, width = images[0].shape[:2]
    with VideoWriter(
        tmp_path / "b.mp4",
        width=width,
        height=height,
        fps=25,
        time_base=TIME_BASE,
        colour=info.colour,
    ) as writer:
        for pts, image in enumerate(images):
            writer.write(image, pts)
    assert probe_video(tmp_path / "b.mp4").colour == kind
    again = next(read_frames(tmp_path / "b.mp4")).image
    np.testing.assert_allclose(middle(again), wanted, atol=5 / 255)


@pytest.mark.parametrize(("rows", "matrix"), [(64, 6), (720, 1)])
def test_untagged_colours_follow_the_size(tmp_path: Path, rows: int, matrix: int) -> None:
    image = np.zeros((rows, 96, 3), np.uint8)
    image[:] = (40, 180, 90)
    picture = VideoFrame.from_ndarray(image, "rgb24").reformat(
        format="yuv420p", dst_colorspace=matrix
    )
    picture.colorspace = picture.color_primaries = picture.color_trc = 2
    path = write(tmp_path / "a.mkv", [picture])
    assert probe_video(path).colour == Colour(matrix=matrix, primaries=2, transfer=2)
    shown = next(read_frames(path)).image[rows // 2, 48]
    np.testing.assert_allclose(shown, (40, 180, 90), atol=3)


@pytest.mark.parametrize("interlaced", [False, True])
def test_interlaced_footage_is_flagged(
    tmp_path: Path, interlaced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = [
        VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * i, np.uint8), "rgb24").reformat(
            format="yuv420p"
        )
        for i in range(5)
    ]
    options = {"x264-params": "tff=1"} if interlaced else {}
    info = probe_video(write(tmp_path / "a.mp4", pictures, "libx264", options))
    assert info.interlaced == info.record()["interlaced"] == interlaced
    info.warn()
    assert ("is interlaced" in caplog.text) == interlaced
    json.dumps(info.record())


def test_rotated_and_interlaced_footage_is_dubbed_upright_and_reported(tmp_path: Path) -> None:
    images = [np.ascontiguousarray(image[:64]) for image in pictures(12)]
    video, report = tmp_path / "a.mp4", tmp_path / "report.json"
    with av.open(str(video), "w") as out:
        track = out.add_stream("libx264", rate=25, options={"x264-params": "tff=1", "crf": "4"})
        assert isinstance(track, VideoStream)
        track.height, track.width, _ = images[0].shape
        track.pix_fmt = "yuv420p"
        track.set_display_matrix([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30])
        for number, image in enumerate(images):
            frame = VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number + 5, TIME_BASE
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    footage = located(video, without(still_track(12), [slice(0, 12, 2)]))
    job = debug_avatar().dub(video, write_tone(tmp_path / "a.wav", 1), located=footage)
    result = job.save(tmp_path / "out.mp4")
    info = probe_video(result.output)
    assert (info.width, info.height, info.rotation_deg) == (64, 96, 0)
    with av.open(str(result.output)) as container:
        frames = list(container.decode(video=0))
    shown_s = [(frame.pts or 0) * (frame.time_base or 0) for frame in frames]
    assert shown_s == [(number + 5) * TIME_BASE for number in range(12)]
    for number in range(0, 12, 2):
        shown = frames[number].to_ndarray(format="rgb24").astype(float)
        upright, upside_down = np.rot90(images[number], -1), np.rot90(images[number], 1)
        assert np.mean(np.abs(shown - upright)) < 6, "but for two encodings"
        assert np.mean(np.abs(shown - upside_down)) > 20
    save_report(result, report)
    told = json.loads(report.read_text())["footage"]
    assert (told["interlaced"], told["rotation_deg"], told["hdr"]) == (True, 90, "")


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
    decoder._end_all()
    yield
    decoder._end_all()


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


# Sound that is not all there


def write_pieces(path: Path, codec: str, pieces: list[tuple[float, float, float]]) -> Path:
    """Write a sound of (start_s, length_s, level) pieces, each a steady tone."""
    rate_hz = 48_000
    with av.open(str(path), "w") as out:
        track = out.add_stream(codec, rate=rate_hz, layout="stereo")
        assert isinstance(track, AudioStream)
        for start_s, length_s, level in pieces:
            for at in range(0, round(length_s * rate_hz), 960):
                phase = np.arange(at, at + 960) * 2 * np.pi * 500 / rate_hz
                tone = np.repeat((level * np.sin(phase)).astype(np.float32), 2)[None]
                frame = av.AudioFrame.from_ndarray(tone, format="flt", layout="stereo")
                frame.sample_rate = rate_hz
                frame.pts = round(start_s * rate_hz) + at
                frame.time_base = Fraction(1, rate_hz)
                out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "pcm_s16le"), ("a.nut", "pcm_u8")])
def test_lost_sound_does_not_move_what_follows(tmp_path: Path, name: str, codec: str) -> None:
    path = write_pieces(tmp_path / name, codec, [(0, 0.5, 0.2), (2.0, 0.5, 0.8), (2.9, 0.2, 0.4)])
    sound = np.abs(read_audio(path))
    assert len(sound) == pytest.approx(3.1 * 16_000, abs=320)
    for start_s, stop_s, level in [(0, 0.5, 0.2), (2.0, 2.5, 0.8), (2.9, 3.1, 0.4)]:
        inside = sound[round(start_s * 16_000) + 160 : round(stop_s * 16_000) - 160]
        assert np.max(inside) == pytest.approx(level, abs=0.03)
        assert np.mean(inside) > level / 2
    for start_s, stop_s in [(0.5, 2.0), (2.5, 2.9)]:
        assert np.max(sound[round(start_s * 16_000) + 160 : round(stop_s * 16_000) - 160]) < 0.02


def test_sound_from_a_clock_that_runs_fast_stays_in_step(tmp_path: Path) -> None:
    """Every 20 ms of sound are said to last 21: after 4 s they are a fifth of a second behind."""
    pieces = [(0.021 * i, 0.02, 0.9 if i == 190 else 0.1) for i in range(200)]
    sound = np.abs(read_audio(write_pieces(tmp_path / "a.mkv", "pcm_s16le", pieces)))
    loud_s = np.flatnonzero(sound > 0.5)[0] / 16_000
    assert loud_s == pytest.approx(190 * 0.021, abs=0.025)
