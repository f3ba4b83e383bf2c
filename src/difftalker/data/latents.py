"""Latents of a dataset, computed once by a trained autoencoder for the diffusion stages."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.data.dataset import ClipData, frame_index
from difftalker.diffusion.region import box_mask
from difftalker.files import whole_folder
from difftalker.models.autoencoder import Autoencoder, paint_out, to_pixels


@dataclass(frozen=True, kw_only=True)
class LatentSet:
    """Frames as latents."""

    index: NDArray[np.int64]
    """(n, 2): clip and frame."""
    whole: NDArray[np.float16]
    """(n, C, h, w): of the whole crop."""
    painted: NDArray[np.float16]
    """(n, C, h, w): of the crop whose lower face is painted out."""


def encode_clips(
    autoencoder: Autoencoder,
    clips: Sequence[ClipData],
    folder: Path,
    *,
    stride: int,
    device: str = "cpu",
    autocast: bool = True,
    batch: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LatentSet:
    """Latents of every ``stride``-th frame, kept in ``folder`` for the next run."""
    index = frame_index(clips, stride)
    identity = _identity(autoencoder, clips, stride)
    if (folder / "identity.json").is_file():
        if json.loads((folder / "identity.json").read_text()) == identity:
            return _opened(folder, index)
        shutil.rmtree(folder)  # before there are others: they are large
    size = clips[0].frames.shape[1] // 8
    shape = (len(index), autoencoder.latent_channels, size, size)
    autoencoder.eval()
    kind = torch.device(device).type
    with whole_folder(folder) as part:
        whole, painted = (
            np.lib.format.open_memmap(part / f"{name}.npy", "w+", np.float16, shape)
            for name in ("whole", "painted")
        )
        for start in range(0, len(index), batch):
            rows = slice(start, start + batch)
            with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=autocast):
                z, z_painted = encode_frames(autoencoder, clips, index[rows], device)
            whole[rows], painted[rows] = z.cpu().numpy(), z_painted.cpu().numpy()
            progress(min(start + batch, len(index)), len(index))
        whole.flush()
        painted.flush()
        (part / "identity.json").write_text(json.dumps(identity))
    return _opened(folder, index)


def encode_frames(
    autoencoder: Autoencoder, clips: Sequence[ClipData], index: NDArray[np.int64], device: str
) -> tuple[Tensor, Tensor]:
    """Latents (n, C, h, w) of whole and of painted crops."""
    images = np.stack([clips[c].frames[f] for c, f in index])
    boxes = torch.from_numpy(np.stack([clips[c].boxes[f] for c, f in index])).to(device)
    pixels = to_pixels(torch.from_numpy(images).to(device))
    hidden = paint_out(pixels, box_mask(boxes, pixels.shape[-1]))
    return autoencoder.encode(pixels), autoencoder.encode(hidden)


def _opened(folder: Path, index: NDArray[np.int64]) -> LatentSet:
    whole, painted = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("whole", "painted"))
    return LatentSet(index=index, whole=whole, painted=painted)


def _identity(
    autoencoder: Autoencoder, clips: Sequence[ClipData], stride: int
) -> dict[str, object]:
    digest = hashlib.sha256()
    for tensor in autoencoder.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    boxes = hashlib.sha256(b"".join(c.boxes.tobytes() for c in clips)).hexdigest()
    names = [c.name for c in clips]
    return {"weights": digest.hexdigest(), "boxes": boxes, "clips": names, "stride": stride}
