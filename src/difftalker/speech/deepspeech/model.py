"""Mozilla DeepSpeech from its own model files: the paper's speech features, given by path.

Versions 0.1 (``output_graph.pb``, whose features AD-NeRF uses) to 0.9 (``.pb``, ``.pbmm``): 26
cepstral coefficients at 50 Hz, nine steps of context on either side, three dense layers, an LSTM, a
dense layer, and 29 characters. Sizes and weights come from the file. Sources: Hannun et al. 2014,
"Deep Speech"; mozilla/DeepSpeech v0.1.0 and v0.9.3 (MPL-2.0), for what they compute.
Shape letters: T steps at 50 Hz, C cepstral coefficients, D width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct
from torch import Tensor, nn

from difftalker.core.hashing import sha256_of
from difftalker.errors import AssetError
from difftalker.speech.characters import levels
from difftalker.speech.deepspeech.graphdef import WANTED, Floats, Graph, read_graph
from difftalker.speech.encoder import WindowConfig, WindowedEncoder
from difftalker.speech.mfcc import mfcc
from difftalker.speech.whisper import FEATURE_SAMPLES, SAMPLE_RATE_HZ

VARIABLE = "DIFFTALKER_DEEPSPEECH"
"""The environment variable that names the model file."""
PREFIX = "deepspeech-"
"""Prefix of the features' name. The first 16 digits of the file's sha256 follow, so that an avatar
names its model without a path."""

CEPSTRA = 26
WINDOWS = WindowConfig(window_s=30, overlap_s=5, fade_s=1, padded=False)
RELU_CLIP = 20.0
DENSE = (1, 2, 3, 5, 6)
"""Numbers of the dense layers; 4 is the LSTM."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One direction of the LSTM; gates are in TensorFlow's order: input, new, forget, output."""

    kernel: Tensor
    """(D_in + D, 4 D)."""
    bias: Tensor
    """(4 D), the forget bias added."""
    clip: float
    """Bound of the cell's state, to either side; 0: none."""

    def run(self, x: Tensor) -> Tensor:
        """(T, D_in) -> (T, D)."""
        size = len(self.bias) // 4
        from_input = x @ self.kernel[:-size] + self.bias
        recurrent = self.kernel[-size:]
        h, c, out = x.new_zeros(size), x.new_zeros(size), []
        for step in from_input:
            i, new, forget, o = (step + h @ recurrent).chunk(4)
            c = forget.sigmoid() * c + i.sigmoid() * new.tanh()
            if self.clip:
                c = c.clamp(-self.clip, self.clip)
            h = o.sigmoid() * c.tanh()
            out.append(h)
        return torch.stack(out) if out else x.new_zeros(0, size)


@dataclass(frozen=True, kw_only=True)
class DeepSpeechNet:
    """The acoustic model. A backward cell makes it version 0.1's."""

    dense: Mapping[int, tuple[Tensor, Tensor]]
    """Weights (D_in, D) and bias (D) of the layers :data:`DENSE`."""
    forwards: Cell
    backwards: Cell | None

    @property
    def context(self) -> int:
        """Steps to either side that the first layer sees."""
        return (len(self.dense[1][0]) // CEPSTRA - 1) // 2

    @property
    def dim(self) -> int:
        """Characters, the blank included."""
        return len(self.dense[6][1])

    def __call__(self, cepstra: Tensor) -> Tensor:
        """(T, 26) cepstral coefficients -> (T, dim) logits."""
        x = self._with_context(cepstra)
        for layer in DENSE[:3]:
            x = self._dense(x, layer).clamp(0, RELU_CLIP)
        y = self.forwards.run(x)
        if self.backwards is not None:
            y = torch.cat([y, self.backwards.run(x.flip(0)).flip(0)], -1)
        return self._dense(self._dense(y, 5).clamp(0, RELU_CLIP), 6)

    def _with_context(self, cepstra: Tensor) -> Tensor:
        """(T, C) -> (T, (2 context + 1) C): each step between its neighbours, zeros at the ends."""
        windows = nn.functional.pad(cepstra, (0, 0, self.context, self.context))
        windows = windows.unfold(0, 2 * self.context + 1, 1)
        if self.backwards is not None:  # version 0.1 whitens them, zeros and repeats counted
            windows = (windows - windows.mean()) / windows.std(correction=0)
        return windows.transpose(1, 2).flatten(1)

    def _dense(self, x: Tensor, layer: int) -> Tensor:
        weights, bias = self.dense[layer]
        return x @ weights + bias


def cepstra_of(samples: Floats) -> Floats:
    """(n,) samples from -1 to 1 -> (n // 320, 26), as TensorFlow's ops of versions 0.2 to 0.9.

    Windows of 32 ms every 20 ms, 40 triangles over the magnitudes from 20 Hz to 8 kHz, the natural
    logarithm, a cosine transform. Silence follows the last sample.
    """
    frames = _frames(samples, 512, FEATURE_SAMPLES, len(samples) // FEATURE_SAMPLES)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    magnitudes = np.abs(np.fft.rfft(frames * hann))
    loud = np.maximum(magnitudes @ _triangles().T, 1e-12)
    # Every coefficient has the factor sqrt(2 / N): the first one is not made orthonormal.
    found = dct(np.log(loud), type=2)[:, :CEPSTRA] * np.sqrt(2 / 40) / 2
    return np.asarray(found, np.float32)


def _triangles() -> Floats:
    """(40, 257): triangles on the mel scale 1127 ln(1 + f / 700), each of height 1."""
    bins = np.arange(257)
    mel = 1127 * np.log1p(bins * SAMPLE_RATE_HZ / 512 / 700)
    low, high = 1127 * np.log1p(20 / 700), 1127 * np.log1p(SAMPLE_RATE_HZ / 2 / 700)
    edges = np.linspace(low, high, 42)
    rising = (mel - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - mel) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    triangles[:, :2] = 0  # as TensorFlow has it: the first bin above 20 Hz does not count
    return np.asarray(triangles, np.float32)


def cepstra_of_old(samples: Floats) -> Floats:
    """(n,) samples from -1 to 1 -> (n // 320, 26), as python_speech_features for version 0.1.

    Every second window, of those that begin 20 ms or more before the end.
    """
    found = mfcc(samples.astype(np.float64) * 32768, CEPSTRA)[::2]
    return np.asarray(found[: len(samples) // FEATURE_SAMPLES], np.float32)


def _frames(samples: NDArray[np.floating], size: int, hop: int, count: int) -> NDArray[np.floating]:
    """(count, size) windows, one every ``hop`` samples."""
    padded = np.pad(samples, (0, size))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:count]


def load_deepspeech(file: Path) -> DeepSpeechNet:
    """The network in a model file.

    Raises:
        AssetError: the file cannot be read, or holds another network.
    """
    graph = read_graph(file)
    try:
        dense = {layer: _dense_weights(graph.constants, layer) for layer in DENSE}
        kernels = sorted(name for name in graph.constants if name.endswith("cell/kernel"))
        cells = [_cell(graph, name) for name in kernels if "/bw/" not in name]
        backward = [_cell(graph, name) for name in kernels if "/bw/" in name]
        if len(cells) != 1 or len(backward) > 1:
            raise ValueError(f"{len(kernels)} LSTM cells")
        back = backward[0] if backward else None
        net = DeepSpeechNet(dense=dense, forwards=cells[0], backwards=back)
        net(torch.rand(1, CEPSTRA))  # do the layers fit?
    except (KeyError, ValueError, RuntimeError) as error:
        raise AssetError(
            f"{file} is no DeepSpeech model: {error}",
            wanted=f"Mozilla DeepSpeech 0.1 to 0.9, {WANTED}",
        ) from error
    return net


def _dense_weights(constants: Mapping[str, Floats], layer: int) -> tuple[Tensor, Tensor]:
    """Weights (D_in, D) and bias (D): of 0.6 and later, or under their older names."""
    for weights, bias in (
        (f"layer_{layer}/weights", f"layer_{layer}/bias"),
        (f"h{layer}", f"b{layer}"),
    ):
        if weights in constants:
            return torch.tensor(constants[weights]), torch.tensor(constants[bias])
    raise ValueError(f"it has no layer {layer}")


def _cell(graph: Graph, kernel: str) -> Cell:
    """The weights of one LSTM, with its settings as the graph has them."""
    bias = graph.constants[kernel.removesuffix("kernel") + "bias"].copy()
    weights = graph.constants[kernel]
    size = len(bias) // 4
    if bias.shape != (4 * size,) or weights.ndim != 2 or weights.shape[1] != 4 * size:
        raise ValueError(f"{kernel} of shape {weights.shape}, bias {bias.shape}")
    fused = [node for node in graph.nodes if "LSTM" in node.op]
    if any(node.op not in ("BlockLSTM", "LSTMBlockCell") for node in fused):
        raise ValueError(f"it has the operation {fused[0].op}")
    forget = fused[0].number("forget_bias") if fused else None
    if forget is None:  # cells that continue cuDNN's have learned it within their bias
        forget = 0.0 if "cudnn" in kernel else 1.0
    clip = (fused[0].number("cell_clip") if fused else None) or 0.0
    bias[2 * size : 3 * size] += forget
    return Cell(kernel=torch.tensor(weights), bias=torch.tensor(bias), clip=max(clip, 0.0))


class DeepSpeechEncoder(WindowedEncoder):
    """The :func:`levels` of DeepSpeech's characters, over windows of 30 s."""

    def __init__(
        self, file: Path, device: str | torch.device = "cpu", *, config: WindowConfig = WINDOWS
    ) -> None:
        """``file`` is a model file.

        Raises:
            AssetError: it cannot be read, or holds another network.
        """
        super().__init__(device, config=config)
        self.name = features_of(file)
        self.net = load_deepspeech(file)
        self.dim = self.net.dim

    def features_of(self, samples: Tensor, asked: slice = slice(None)) -> Tensor:
        """(n,) -> (n / 320, 29)."""
        front = cepstra_of_old if self.net.backwards else cepstra_of
        cepstra = torch.from_numpy(front(samples.cpu().numpy()))
        return levels(self.net(cepstra).log_softmax(-1))[asked]


def features_of(file: Path) -> str:
    """What the features of a model file are called.

    Raises:
        AssetError: it cannot be read.
    """
    try:
        return PREFIX + sha256_of(file)[:16]
    except OSError as error:
        raise AssetError(f"{file} cannot be read: {error.strerror}", wanted=WANTED) from error


def model_file() -> Path:
    """The model file that the environment names.

    Raises:
        AssetError: it names none.
    """
    named = os.environ.get(VARIABLE, "")
    if not named:
        raise AssetError(
            "no DeepSpeech model is named",
            wanted=f"{VARIABLE} set to a model file",
            fix=f"run again with {VARIABLE}=FILE before the command",
        )
    return Path(named)


def load_named(features: str, device: str | torch.device = "cpu") -> DeepSpeechEncoder:
    """The encoder of the features ``deepspeech-HASH``, from the file that the environment names.

    Raises:
        AssetError: there is none, or it is another model.
    """
    file = model_file()
    found = features_of(file)
    if found != features:
        raise AssetError(
            f"{file} has the sha256 {found.removeprefix(PREFIX)}...",
            wanted=f"the model {features.removeprefix(PREFIX)}... that the avatar was trained with",
            fix=f"set {VARIABLE} to that file",
        )
    return DeepSpeechEncoder(file, device)
