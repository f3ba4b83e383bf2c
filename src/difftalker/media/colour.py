"""What the colours of a video mean, and how high dynamic range is brought to eight bits.

Codes are those of ITU-T H.273, as FFmpeg has them.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from numpy.typing import NDArray

Hdr = Literal["", "pq", "hlg"]
"""The transfer curve of high dynamic range: none, SMPTE ST 2084 or ARIB STD-B67."""

UNTAGGED = 2
FULL_RANGE = 2
HD_ROWS_PX = 720
"""Untagged video is BT.709 from here on, BT.601 below."""

_BT709, _BT601 = 1, 6
_MATRIX_NAMES = {1: "bt709", 4: "fcc", 5: "bt470", 6: "smpte170m", 7: "smpte240m", 9: "bt2020"}
"""The matrices that swscale knows, by code."""
_HDR: dict[int, Hdr] = {16: "pq", 18: "hlg"}

SDR_WHITE_NITS = 203.0
"""What becomes the white of eight bits: reference white of HDR (ITU-R BT.2408, table 1)."""
HDR_PEAK_NITS = 1000.0
"""The brightest that keeps its detail: nominal peak of HLG (BT.2100) and of most PQ masters."""
_TABLE_SIDE = 33

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Colour:
    """The meaning of stored colours; by default BT.709 in limited range."""

    matrix: int = _BT709
    primaries: int = _BT709
    transfer: int = _BT709
    full_range: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Colour:
        """What a dubbing of this frame's video is to be stored as.

        It is what the frame says; high dynamic range, RGB and grey become BT.709.
        """
        is_yuv = len(frame.format.components) >= 3 and not frame.format.is_rgb
        if hdr_of(frame) or not is_yuv:
            return cls()
        matrix = int(frame.colorspace)
        if matrix not in _MATRIX_NAMES:
            matrix = _BT709 if frame.height >= HD_ROWS_PX else _BT601
        is_full = frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
        return cls(
            matrix=matrix,
            primaries=int(frame.color_primaries) or UNTAGGED,
            transfer=int(frame.color_trc) or UNTAGGED,
            full_range=is_full,
        )

    @property
    def scaling(self) -> str:
        """Options of FFmpeg's filter ``scale`` that turn RGB into this."""
        reach = "pc" if self.full_range else "tv"
        return f"out_color_matrix={_MATRIX_NAMES[self.matrix]}:out_range={reach}"


def hdr_of(frame: VideoFrame) -> Hdr:
    """Whether a frame has high dynamic range, and which."""
    return _HDR.get(int(frame.color_trc), "")


class ToneMapper:
    """16-bit RGB of high dynamic range (BT.2020 primaries) to 8-bit RGB (BT.709).

    Up to 80 nits, where faces lie, light is kept in proportion; what is brighter is bent below
    white by the curve of ITU-R BT.2390 (section 5.4.1), by the brightest of the three channels, so
    that hues stay. Carried out by a table of 33 x 33 x 33 colours with tetrahedral interpolation.
    """

    def __init__(self, hdr: Hdr, width: int, height: int) -> None:
        self._graph = Graph()
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder, "table.cube")
            table.write_text(_cube(hdr))
            source = VideoFormat("rgb48le", width, height)
            self._graph.link_nodes(
                self._graph.add_buffer(
                    width=width, height=height, format=source, time_base=Fraction(1, 1000)
                ),
                self._graph.add("lut3d", file=str(table), interp="tetrahedral"),
                self._graph.add("format", "rgb24"),
                self._graph.add("buffersink"),
            )
            self._graph.configure()

    def __call__(self, rgb48: VideoFrame) -> VideoFrame:
        """The picture in eight bits."""
        rgb48.pts = None
        self._graph.vpush(rgb48)
        return self._graph.vpull()


def _cube(hdr: Hdr) -> str:
    """The table as a .cube file (Adobe, Cube LUT Specification 1.0): red runs fastest."""
    steps = np.linspace(0, 1, _TABLE_SIDE)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    colours = to_sdr(np.stack([red, green, blue], -1).reshape(-1, 3), hdr)
    lines = (f"{r:.6f} {g:.6f} {b:.6f}" for r, g, b in colours.tolist())
    return f"LUT_3D_SIZE {_TABLE_SIDE}\n" + "\n".join(lines) + "\n"


_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)
"""ITU-R BT.2087, section 4."""


def to_sdr(signal: Floats, hdr: Hdr) -> Floats:
    """Stored colours (n, 3) in 0 to 1 -> those for a display of BT.709 and BT.1886, 0 to 1."""
    nits = _pq_to_nits(signal) if hdr == "pq" else _hlg_to_nits(signal)
    nits = np.maximum(nits @ _BT2020_TO_BT709.T, 0)
    brightest = nits.max(-1, keepdims=True)
    gain = bent(brightest) / np.maximum(brightest, 1e-9)
    return np.asarray(np.clip(nits * gain / SDR_WHITE_NITS, 0, 1) ** (1 / 2.4))


def bent(nits: Floats) -> Floats:
    """Light of a display of ``HDR_PEAK_NITS`` on one of ``SDR_WHITE_NITS`` (BT.2390, 5.4.1)."""
    peak = _nits_to_pq(np.array(HDR_PEAK_NITS))
    highest = _nits_to_pq(np.array(SDR_WHITE_NITS)) / peak
    knee = 1.5 * highest - 0.5
    e = np.minimum(_nits_to_pq(nits) / peak, 1)
    t = np.maximum(e - knee, 0) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * highest
    )
    return _pq_to_nits(np.where(e < knee, e, spline) * peak)


_M1, _M2 = 2610 / 16384, 2523 / 32
_C1, _C2, _C3 = 3424 / 4096, 2413 / 128, 2392 / 128


def _pq_to_nits(signal: Floats) -> Floats:
    """SMPTE ST 2084, equation 4.1."""
    root = np.asarray(signal) ** (1 / _M2)
    return np.asarray(10_000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1))


def _nits_to_pq(nits: Floats) -> Floats:
    """SMPTE ST 2084, equation 5.2."""
    y = (np.asarray(nits) / 10_000) ** _M1
    return np.asarray(((_C1 + _C2 * y) / (1 + _C3 * y)) ** _M2)


def _hlg_to_nits(signal: Floats) -> Floats:
    """ITU-R BT.2100, table 5, on a display of 1000 nits: inverse OETF, then OOTF."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luma = scene @ np.array([0.2627, 0.6780, 0.0593])
    return np.asarray(HDR_PEAK_NITS * np.maximum(luma, 1e-9)[..., None] ** 0.2 * scene)
