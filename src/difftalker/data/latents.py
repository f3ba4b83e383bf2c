"""Latents of a dataset, encoded once by a trained autoencoder for the diffusion stages."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from difftalker.core.device import autocast as autocast_on
from difftalker.core.files import whole_folder
from difftalker.data.dataset import ClipData, frame_index
from difftalker.synthesis.autoencoder import Autoencoder, mask_out, to_pixels
from difftalker.synthesis.region import box_mask


@dataclass(frozen=True, kw_only=True)
class LatentSet:
    """Latents of frames, whole and masked."""

    index: NDArray[np.int64]
    """(n, 2): clip and frame."""
    whole: NDArray[np.float16]
    """(n, C, h, w): latents of the whole crop."""
    masked: NDArray[np.float16]
    """(n, C, h, w): latents of the crop with its lower face masked."""

    @classmethod
    def empty(cls, channels: int) -> LatentSet:
        """A set without frames, C = ``channels``."""
        nothing = np.zeros((0, channels, 1, 1), np.float16)
        return cls(index=np.zeros((0, 2), np.int64), whole=nothing, masked=nothing)


Progress = Callable[[int, int], None]
"""Called with (frames done, frames in all)."""


def encode_clips(
    autoencoder: Autoencoder,
    clips: Sequence[ClipData],
    folder: Path,
    *,
    stride: int,
    device: str = "cpu",
    autocast: bool = True,
    batch: int = 32,
    progress: Progress = lambda done, total: None,
) -> LatentSet:
    """Encode every ``stride``-th frame; the latents are cached in ``folder``."""
    autoencoder.eval()
    index = frame_index(clips, stride)

    def encode(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        with autocast_on(device, autocast):
            return encode_frames(autoencoder, clips, rows, device)

    made_of = identity([autoencoder], clips, stride)
    names = ("whole", "masked")
    whole, masked = keep(folder, names, index, encode, made_of, progress, batch=batch)
    return LatentSet(index=index, whole=whole, masked=masked)


def keep(
    folder: Path,
    names: Sequence[str],
    index: NDArray[np.int64],
    make: Callable[[NDArray[np.int64]], Sequence[Tensor]],
    made_of: Mapping[str, object],
    progress: Progress = lambda done, total: None,
    *,
    batch: int = 32,
    dtype: type[np.generic] = np.float16,
) -> list[NDArray[Any]]:
    """Cache the arrays (n, ...) that ``make`` gives for the frames of ``index`` (n, 2) on disk.

    A ``folder`` whose identity equals ``made_of`` is reused; it is complete or absent.
    """
    if (folder / "identity.json").is_file():
        if json.loads((folder / "identity.json").read_text()) == made_of:
            return _opened(folder, names)
        shutil.rmtree(folder)  # before there are others: they are large
    files: list[NDArray[Any]] = []
    given = torch.from_numpy(np.zeros(0, dtype)).dtype
    with whole_folder(folder) as part:
        for start in range(0, len(index), batch):
            with torch.inference_mode():
                made = make(index[start : start + batch])
            files = files or [
                np.lib.format.open_memmap(
                    part / f"{name}.npy", "w+", dtype, (len(index), *one.shape[1:])
                )
                for name, one in zip(names, made, strict=True)
            ]
            for file, one in zip(files, made, strict=True):
                file[start : start + batch] = one.to(given).cpu().numpy()
            progress(min(start + batch, len(index)), len(index))
        for file in files:
            cast(np.memmap, file).flush()
        (part / "identity.json").write_text(json.dumps(made_of))
    return _opened(folder, names)


def encode_frames(
    autoencoder: Autoencoder, clips: Sequence[ClipData], index: NDArray[np.int64], device: str
) -> tuple[Tensor, Tensor]:
    """Encode whole and masked crops to latents, (n, C, h, w) each."""
    images = np.stack([clips[c].frames[f] for c, f in index])
    boxes = torch.from_numpy(np.stack([clips[c].boxes[f] for c, f in index])).to(device)
    pixels = to_pixels(torch.from_numpy(images).to(device))
    hidden = mask_out(pixels, box_mask(boxes, pixels.shape[-1]))
    return autoencoder.encode(pixels), autoencoder.encode(hidden)


def identity(
    networks: Sequence[nn.Module], clips: Sequence[ClipData], stride: int
) -> dict[str, object]:
    """All that the latents depend on, as JSON: weights, boxes, clips and stride."""
    digest = hashlib.sha256()
    for network in networks:
        for tensor in network.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    boxes = hashlib.sha256(b"".join(c.boxes.tobytes() for c in clips)).hexdigest()
    names = [c.name for c in clips]
    return {"weights": digest.hexdigest(), "boxes": boxes, "clips": names, "stride": stride}


def _opened(folder: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    return [np.load(folder / f"{name}.npy", mmap_mode="r") for name in names]
