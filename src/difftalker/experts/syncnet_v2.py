"""SyncNet as published, for its official weights: the network behind LSE-C and LSE-D.

Source: Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016); names and shapes
of the layers are those of the file syncnet_v2.model of syncnet_python (MIT). Weights are not
shipped. Shape letters: F frames, N windows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.errors import AssetError

PICTURE_PX = 224
WINDOW_FRAMES = 5
WINDOW_CEPSTRA = 20
CEPSTRA_A_FRAME = 4
DIM = 1024
CHUNK_WINDOWS = 8
"""Windows of pictures in one batch."""


class SyncNetV2(nn.Module):
    """Windows of 5 faces and of 20 cepstra to embeddings of 1024 numbers."""

    def __init__(self) -> None:
        super().__init__()
        # The layers carry the official names, so that the official file loads as it is.
        self.netcnnaud = nn.Sequential(
            *_convolution2d(1, 64, (3, 3), 1),
            nn.MaxPool2d(1, 1),
            *_convolution2d(64, 192, (3, 3), 1),
            nn.MaxPool2d(3, (1, 2)),
            *_convolution2d(192, 384, (3, 3), 1),
            *_convolution2d(384, 256, (3, 3), 1),
            *_convolution2d(256, 256, (3, 3), 1),
            nn.MaxPool2d(3, 2),
            *_convolution2d(256, 512, (5, 4), 0),
        )
        self.netcnnlip = nn.Sequential(
            *_convolution3d(3, 96, (5, 7, 7), stride=2),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_convolution3d(96, 256, (1, 5, 5), stride=2, padding=1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_convolution3d(256, 256, (1, 3, 3), padding=1),
            *_convolution3d(256, 256, (1, 3, 3), padding=1),
            *_convolution3d(256, 256, (1, 3, 3), padding=1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_convolution3d(256, 512, (1, 6, 6)),
        )
        self.netfcaud = _projection()
        self.netfclip = _projection()

    def picture(self, faces: Iterable[NDArray[np.uint8]]) -> Tensor:
        """Faces (224, 224, 3), RGB, F of them at 25 Hz -> (F - 4, 1024), one by one to any length.

        Only the first layer spans frames, so that a run of them gives each window's own result.
        """
        embedded, held = [torch.zeros(0, DIM)], []
        for face in faces:
            held.append(torch.from_numpy(face[..., ::-1].copy()))  # the network knows BGR
            if len(held) == CHUNK_WINDOWS + WINDOW_FRAMES - 1:
                embedded.append(self._embedded(held))
                held = held[CHUNK_WINDOWS:]
        if len(held) >= WINDOW_FRAMES:
            embedded.append(self._embedded(held))
        return torch.cat(embedded)

    def _embedded(self, faces: list[Tensor]) -> Tensor:
        """Faces (224, 224, 3) in a row -> (windows, 1024) on the CPU."""
        device = next(self.parameters()).device
        run = torch.stack(faces).permute(3, 0, 1, 2)[None].to(device).float()
        seen = self.netcnnlip(run)
        embedded: Tensor = self.netfclip(seen[0, :, :, 0, 0].T)
        return embedded.cpu()

    def sound(self, cepstra: Tensor) -> Tensor:
        """Windows (N, 20, 13) of cepstra at 100 Hz -> (N, 1024)."""
        heard = self.netcnnaud(cepstra.mT[:, None].float())
        embedded: Tensor = self.netfcaud(heard.flatten(1))
        return embedded


def _convolution2d(
    before: int, after: int, size: tuple[int, int], padding: int
) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, size, padding=padding), nn.BatchNorm2d(after), nn.ReLU()


def _convolution3d(
    before: int, after: int, size: tuple[int, int, int], *, stride: int = 1, padding: int = 0
) -> tuple[nn.Module, ...]:
    """Stride and padding are those of rows and columns: no frame is skipped or added."""
    steps, edges = (1, stride, stride), (0, padding, padding)
    return nn.Conv3d(before, after, size, steps, edges), nn.BatchNorm3d(after), nn.ReLU()


def _projection() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, DIM))


def load_syncnet(path: Path) -> SyncNetV2:
    """The network with the weights of the official file ``syncnet_v2.model``.

    Raises:
        AssetError: the file is missing, no state dictionary of tensors, or of another network.
    """
    fix = "give the file syncnet_v2.model of syncnet_python (VGG, University of Oxford)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files use a storage that torch deprecates
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise AssetError(f"there is no file {path}", fix=fix) from error
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise AssetError(f"{path} cannot be read as weights", fix=fix) from error
    net = SyncNetV2()
    wanted = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    given = state if isinstance(state, dict) else {}
    found = {name: tuple(t.shape) for name, t in given.items() if isinstance(t, Tensor)}
    # Files of the time before torch counted batches lack the counters; they mean nothing here.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    wrong = {n for n in wanted.keys() - counters if found.get(n) != wanted[n]}
    if wrong := wrong | (given.keys() - wanted.keys()):
        name = sorted(wrong)[0]
        raise AssetError(
            f"{path} is no SyncNet: {name} is {found.get(name, 'not a tensor there')}",
            wanted=f"{wanted.get(name, 'no such name')}",
            fix=fix,
        )
    net.load_state_dict(given, strict=False)
    return net.eval()


def padded_offset_distances(picture: Tensor, sound: Tensor, *, reach: int) -> Tensor:
    """Mean distance at each offset of the sound, (N, D) and (N, D) -> (2 reach + 1,).

    As SyncNet's evaluation has it: entry ``reach + k`` compares each window ``i`` of the picture
    with window ``i + k`` of the sound, and with zeros where there is none.
    """
    padded = nnf.pad(sound, (0, 0, reach, reach))
    means = [
        nnf.pairwise_distance(picture, padded[place : place + len(picture)]).mean()
        for place in range(2 * reach + 1)
    ]
    return torch.stack(means)
