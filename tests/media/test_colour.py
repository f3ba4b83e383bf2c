"""Colours, high dynamic range, interlacing and rotation."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from difftalker.dubbing.previews import save_report
from difftalker.media import colour as colours
from difftalker.media.colour import SDR_WHITE_NITS, Colour, to_sdr
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
