"""The encoder of Whisper in plain torch, read from a CTranslate2 ``model.bin`` with numpy.

Source: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", 2.2; the
mel filters are Slaney's (Auditory Toolbox, 1998). The weights are OpenAI's, MIT licence.
Shape letters: B batch, M mel frames (100 Hz), N features (50 Hz), D width.
"""

from __future__ import annotations

import functools
import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from difftalker.errors import AssetError

SAMPLE_RATE_HZ = 16_000
FFT_SAMPLES = 400
HOP_SAMPLES = 160
MELS = 80
WINDOW_SAMPLES = 30 * SAMPLE_RATE_HZ
FEATURE_SAMPLES = 2 * HOP_SAMPLES
DYNAMIC_RANGE_LOG10 = 8.0
"""Anything quieter than the loudest bin of the window by more than this is cut off."""


def mel_filters() -> Tensor:
    """Slaney's triangular filters of unit area, (80, 201), for power spectra at 16 kHz."""
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, FFT_SAMPLES // 2 + 1)
    edges_hz = _mel_to_hz(np.linspace(0, _hz_to_mel(SAMPLE_RATE_HZ / 2), MELS + 2))
    widths_hz = np.diff(edges_hz)
    ramps = edges_hz[:, None] - bins_hz[None]
    rising = -ramps[:-2] / widths_hz[:-1, None]
    falling = ramps[2:] / widths_hz[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    areas = 2 / (edges_hz[2:] - edges_hz[:-2])
    return torch.from_numpy((triangles * areas[:, None]).astype(np.float32))


# Slaney's scale: linear up to 1 kHz (15 mel), logarithmic above (27 mel a factor of 6.4).
_LINEAR_HZ_A_MEL = 200 / 3
_BREAK_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    """Above the break only, where the one caller needs it."""
    return float(_BREAK_HZ / _LINEAR_HZ_A_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = mel - _BREAK_HZ / _LINEAR_HZ_A_MEL
    logarithmic = _BREAK_HZ * np.exp(_LOG_STEP * np.maximum(above, 0))
    return np.where(above < 0, mel * _LINEAR_HZ_A_MEL, logarithmic)


@functools.cache
def _filters_and_hann(device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept for later calls, some of which may need gradients.
    with torch.inference_mode(False):
        return mel_filters().to(device), torch.hann_window(FFT_SAMPLES, device=device)


def log_mel(samples: Tensor) -> Tensor:
    """Whisper's log-mel spectrogram: (..., samples) at 16 kHz -> (..., 80, samples // 160).

    The floor lies 8 decades below the loudest bin of all ``samples``: cut windows first.
    Silence gives the constant -1.5.
    """
    filters, hann = _filters_and_hann(samples.device)
    spectrum = torch.stft(samples, FFT_SAMPLES, HOP_SAMPLES, window=hann, return_complex=True)
    power = spectrum[..., :-1].abs().square()
    log10 = (filters @ power).clamp(min=1e-10).log10()
    log10 = torch.maximum(log10, log10.amax((-2, -1), keepdim=True) - DYNAMIC_RANGE_LOG10)
    return (log10 + 4) / 4


class _Attention(nn.Module):
    """Self-attention whose query, key and value share one projection, as CTranslate2 stores it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.layer_norm = nn.LayerNorm(width)
        self.linear_0 = nn.Linear(width, 3 * width)
        self.linear_1 = nn.Linear(width, width)

    def forward(self, x: Tensor, asked: slice) -> Tensor:
        """(B, N, D) -> what is asked for of the positions, (B, n, D)."""
        width, normed = x.shape[-1], self.layer_norm(x)
        weight, bias = self.linear_0.weight, self.linear_0.bias
        query = F.linear(normed[:, asked], weight[:width], bias[:width])
        key, value = F.linear(normed, weight[width:], bias[width:]).chunk(2, -1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.linear_1(mixed.transpose(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(width)
        self.linear_0 = nn.Linear(width, 4 * width)
        self.linear_1 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_1(F.gelu(self.linear_0(self.layer_norm(x))))
        return out


class _Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attention = _Attention(width, heads)
        self.ffn = _FeedForward(width)

    def forward(self, x: Tensor, asked: slice = slice(None)) -> Tensor:
        """(B, N, D) -> what is asked for of the positions, (B, n, D)."""
        x = x[:, asked] + self.self_attention(x, asked)
        out: Tensor = x + self.ffn(x)
        return out


class WhisperNet(nn.Module):
    """Whisper's audio encoder; its dimensions live in the weights. Module names are the file's."""

    def __init__(self, *, width: int, heads: int, layers: int, positions: int) -> None:
        super().__init__()
        self.width = width
        self.conv1 = nn.Conv1d(MELS, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.position_encodings = nn.Parameter(torch.zeros(positions, width))
        self.layers = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, mel: Tensor, asked: slice = slice(None)) -> Tensor:
        """(B, 80, M) log-mels of up to 30 s, M <= 3000 and even -> (B, N, D), N = M / 2.

        Only the features that are ``asked`` for are computed to their end. Whisper itself was
        trained on windows padded to M = 3000.
        """
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.position_encodings[: x.shape[1]]
        last = len(self.layers) - 1
        for i, block in enumerate(self.layers):
            x = block(x, asked if i == last else slice(None))
        out: Tensor = self.layer_norm(x)
        return out


def load_whisper(file: Path) -> WhisperNet:
    """The encoder in ``file``, in float32 on the CPU, frozen.

    Raises:
        AssetError: no Whisper model in CTranslate2's format, or one quantised to integers.
    """
    stored = read_ctranslate2(file, prefix="encoder/")
    try:
        heads = int(stored.pop("num_heads"))
        positions, width = stored["position_encodings/encodings"].shape
        state = {_state_name(name): torch.from_numpy(array) for name, array in stored.items()}
        layers = sum(name.endswith("ffn/linear_0/weight") for name in stored)
        net = WhisperNet(width=width, heads=heads, layers=layers, positions=positions)
        net.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise AssetError(f"{file} is no Whisper encoder: {error}", wanted=_WANTED) from error
    return net.eval().requires_grad_(False)


def _state_name(name: str) -> str:
    """``layer_0/ffn/layer_norm/beta`` -> ``layers.0.ffn.layer_norm.bias``."""
    name = name.replace("layer_norm/gamma", "layer_norm/weight")
    name = name.replace("layer_norm/beta", "layer_norm/bias")
    name = name.removesuffix("/encodings")
    parts = name.split("/")
    if parts[0].startswith("layer_") and parts[0] != "layer_norm":
        parts[0] = "layers." + parts[0].removeprefix("layer_")
    return ".".join(parts)


_WANTED = "Whisper in CTranslate2's binary format 6, float16 or float32"
_FLOATS = {0: "<f4", 4: "<f2"}
_COUNTERS = {1: "<i1", 2: "<i2", 3: "<i4"}


def read_ctranslate2(file: Path, *, prefix: str) -> dict[str, NDArray[np.float32]]:
    """The variables whose names begin with ``prefix``, by the rest of their names, as float32.

    The format, little-endian: u32 version, string specification, u32 revision, u32 count; then for
    each variable string name, u8 rank, u32 dimensions, u8 type, u32 bytes, data; aliases follow.
    A string is u16 length, then characters with a closing zero.

    Raises:
        AssetError: another format or version, a truncated file, or weights quantised to integers.
    """
    try:
        return _Reader(file).variables(prefix)
    except (struct.error, ValueError, OSError) as error:
        raise AssetError(f"{file} cannot be read: {error}", wanted=_WANTED) from error


class _Reader:
    """A cursor over the mapped file; only what is asked for is copied to memory."""

    def __init__(self, file: Path) -> None:
        self.data = np.memmap(file, dtype=np.uint8, mode="r")
        self.at = 0

    def variables(self, prefix: str) -> dict[str, NDArray[np.float32]]:
        version, specification = self._number("I"), self._string()
        if (version, specification) != (6, "WhisperSpec"):
            raise ValueError(f"format {version}, specification {specification!r}")
        self._number("I")
        found = {}
        for _ in range(self._number("I")):
            name, array = self._variable(prefix)
            if array is not None:
                found[name.removeprefix(prefix)] = array
        return found

    def _variable(self, prefix: str) -> tuple[str, NDArray[np.float32] | None]:
        name = self._string()
        shape = [self._number("I") for _ in range(self._number("B"))]
        kind, size = self._number("B"), self._number("I")
        data = self.data[self.at : self.at + size]
        if len(data) != size:
            raise ValueError(f"it ends within {name}")
        self.at += size
        if not name.startswith(prefix):
            return name, None
        # Integers are settings (the number of heads) when alone, quantised weights otherwise.
        kinds = _FLOATS if shape else _FLOATS | _COUNTERS
        if kind not in kinds:
            raise ValueError(f"{name} has type {kind}, quantised weights are not supported")
        array = np.frombuffer(data.tobytes(), kinds[kind])
        return name, array.reshape(shape).astype(np.float32)

    def _number(self, code: str) -> int:
        layout = struct.Struct("<" + code)
        raw = self.data[self.at : self.at + layout.size].tobytes()
        value: int = layout.unpack(raw)[0]
        self.at += layout.size
        return value

    def _string(self) -> str:
        length = self._number("H")
        raw = self.data[self.at : self.at + length].tobytes()
        self.at += length
        return raw.rstrip(b"\0").decode("ascii")
