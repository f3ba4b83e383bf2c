"""What the baselines share: examples from a dataset, a renderer, a task, and what a system is."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from difftalker.baselines.nets import BaselineConfig
from difftalker.config import StageConfig
from difftalker.core.device import autocast
from difftalker.data.dataset import ClipData, Dataset, frame_index
from difftalker.errors import TrainingError
from difftalker.face.compose.blend import RING_PX
from difftalker.face.crop import boxes_hull
from difftalker.face.draw import contact_sheet
from difftalker.face.landmarks import UPPER, mouth_opening
from difftalker.speech.windows import windows
from difftalker.synthesis.autoencoder import mask_out, to_images, to_pixels
from difftalker.synthesis.region import box_mask
from difftalker.synthesis.renderer import Floats, Image, Renderer
from difftalker.training.task import Task
from difftalker.training.tasks import psnr
from difftalker.training.tasks.pictures import on_device

Rows = NDArray[np.int64]
"""(n, 2): clip and frame."""


class BaselineNet(nn.Module):
    """All networks of one baseline, and the frame of its person that it knows in use."""

    reference: Tensor
    """(3, S, S), -1..1: a picture of the person with lips that hardly open."""
    neutral: Tensor
    """(68, 2): its landmarks, crop units."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.size_px, self.window = config.size_px, config.window
        self.register_buffer("reference", torch.zeros(3, config.size_px, config.size_px))
        self.register_buffer("neutral", torch.zeros(68, 2))

    def remember(self, clips: Sequence[ClipData]) -> None:
        """Take the reference frame from clips (:func:`neutral_frame`)."""
        clip, frame = neutral_frame(clips)
        picture = torch.from_numpy(clips[clip].frames[frame].copy())[None]
        self.reference.copy_(to_pixels(picture)[0])
        self.neutral.copy_(torch.from_numpy(clips[clip].points_crop[frame]))


def neutral_frame(clips: Sequence[ClipData]) -> tuple[int, int]:
    """Clip and frame of the upper face nearest to the mean, where lips are least open (a tenth).

    Raises:
        TrainingError: no frame shows a face.
    """
    rows = frame_index(clips)
    if not len(rows):
        raise TrainingError(
            "the dataset shows no face",
            wanted="some frames with one",
            fix="run `difftalker prepare` on other footage",
        )
    points = np.concatenate([clip.points_crop[clip.found] for clip in clips])
    openings, upper = mouth_opening(points), points[:, list(UPPER)]
    gaps = np.linalg.norm(upper - upper.mean(0), axis=-1).mean(1)
    gaps[openings > np.quantile(openings, 0.1)] = np.inf
    clip, frame = rows[int(gaps.argmin())]
    return int(clip), int(frame)


class Examples:
    """Frames of clips with their landmarks, mask boxes and speech."""

    def __init__(self, clips: Sequence[ClipData], features: str, config: BaselineConfig) -> None:
        """``features`` is the name of stored speech features.

        Raises:
            UsageError: the dataset holds no such features.
        """
        self.clips, self._window = clips, config.window
        self._features = [clip.features(features) for clip in clips]
        self.rows: Rows = frame_index(clips)

    def pictures(self, rows: Rows) -> Tensor:
        """(n, S, S, 3) uint8."""
        return torch.from_numpy(np.stack([self.clips[c].frames[f] for c, f in rows]))

    def boxes(self, rows: Rows) -> Tensor:
        """(n, 4): mask boxes, pixels."""
        return torch.from_numpy(np.stack([self.clips[c].boxes[f] for c, f in rows]))

    def points(self, rows: Rows) -> Tensor:
        """(n, 68, 2): landmarks, crop units."""
        return torch.from_numpy(np.stack([self.clips[c].points_crop[f] for c, f in rows]))

    def windows(self, rows: Rows) -> Tensor:
        """(n, W, features): speech around the frames."""
        heard = []
        for c, f in rows:
            time_s = self.clips[c].times_s[f : f + 1] + self.clips[c].delay_s
            heard.append(windows(self._features[c], time_s, size=self._window)[0])
        return torch.from_numpy(np.stack(heard))

    def others(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, S, S, 3) uint8: pictures of other moments, of any clip."""
        drawn = torch.randint(len(self.rows), (count,), generator=generator)
        return self.pictures(self.rows[drawn.numpy()])


class BaselineRenderer(Renderer):
    """Lower faces by a baseline; what shows of lower faces within the boxes never reaches it."""

    uses_landmarks, uses_audio = True, True

    def __init__(self, net: Any, *, key: str = "", device: str = "cpu", seed: int = 0) -> None:
        """``net`` is the baseline's; ``key`` a hash of it."""
        self._net, self._device, self._seed = net, device, seed
        self.size_px, self.key = net.size_px, key

    def points(self, points_crop: Floats, windows: Floats) -> Floats:
        """The landmarks (n, 68, 2) that :meth:`render` is to be given, for those of footage."""
        return points_crop

    def render(
        self,
        crops: Image,
        boxes: NDArray[np.int32],
        points_crop: Floats,
        windows: Floats | None = None,
    ) -> Image:
        """Generate lower faces; see :meth:`difftalker.synthesis.renderer.Renderer.render`."""
        if windows is None:
            raise ValueError("a baseline renders from speech")
        with torch.inference_mode(), autocast(self._device):
            mask = box_mask(torch.from_numpy(boxes), self.size_px).to(self._device)
            pictures = to_pixels(torch.from_numpy(crops).to(self._device))
            heard = torch.from_numpy(windows).to(self._device)
            made = self.generate(mask_out(pictures, mask), mask, points_crop, heard)
        rows, columns = boxes_hull(boxes, self.size_px, RING_PX)
        out = crops.copy()
        out[:, rows, columns] = to_images(made[:, :, rows, columns]).cpu().numpy()
        return out

    @abc.abstractmethod
    def generate(
        self, masked: Tensor, mask: Tensor, points_crop: Floats, windows: Tensor
    ) -> Tensor:
        """Masked pictures (n, 3, S, S), -1..1, and what conditions them -> pictures."""

    def _references(self, count: int) -> Tensor:
        """(count, 3, S, S): the reference frame."""
        reference: Tensor = self._net.reference
        return reference.float().expand(count, -1, -1, -1)


class BaselineTask(abc.ABC):
    """A task on single frames; see ``training.task.Task``."""

    name: str
    model: nn.Module
    examples: int
    renders: type[BaselineRenderer]
    """What renders with the baseline's networks."""

    def __init__(
        self, net: BaselineNet, data: Dataset, options: BaselineOptions, config: BaselineConfig
    ) -> None:
        self._network, self.device = net, options.device
        self.data = Examples(data.train, options.features, config)
        self.held_out = Examples(data.validation, options.features, config)
        self.watched: Rows = self.held_out.rows[::10][:16]
        self.examples = len(self.data.rows)

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the clips; see ``training.task.Task``."""
        return [self.data.clips[int(c)].name for c in self.data.rows[indices, 0]]

    @abc.abstractmethod
    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Examples on the device; see ``training.task.Task``."""

    @abc.abstractmethod
    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses; see ``training.task.Task``."""

    def renderer(self) -> BaselineRenderer:
        """What renders with the networks as they are now."""
        return self.renders(self._network, device=self.device)

    def validate(self) -> dict[str, float]:
        """PSNR (dB) of lower faces held out."""
        true, made, boxes = self._watched()
        mask = box_mask(boxes, true.shape[1]).bool()[:, 0, :, :, None].expand(true.shape)
        return {"psnr_lower": psnr(made[mask], true[mask])}

    def sheet(self) -> NDArray[np.uint8] | None:
        """Footage and what is generated, pair by pair; see ``training.task.Task``."""
        true, made, _ = self._watched()
        pairs = zip(true[::2].numpy(), made[::2].numpy(), strict=True)
        return contact_sheet([tile for pair in pairs for tile in pair], 4)

    def rendered(self, rows: Rows) -> Image:
        """Frames held out (n, 2) with lower faces from their speech, (n, S, S, 3)."""
        pictures, boxes = self.held_out.pictures(rows).numpy(), self.held_out.boxes(rows).numpy()
        heard, renderer = self.held_out.windows(rows).numpy(), self.renderer()
        points = renderer.points(self.held_out.points(rows).numpy(), heard)
        return renderer.render(pictures, boxes, points, heard)

    def _watched(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures held out (n, S, S, 3), the same as rendered, and their boxes."""
        made = torch.from_numpy(self.rendered(self.watched))
        return self.held_out.pictures(self.watched), made, self.held_out.boxes(self.watched)

    def on_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch where it is learned from."""
        return on_device(batch, self.device)


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """Options of the training of a baseline, besides its dataset and config."""

    run: Path
    """Checkpoints and logs."""
    features: str
    """The stored speech features."""
    sync: str | Path = ""
    """The sync expert's folder, for those that learn from one; empty: the packaged one."""
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the training of a baseline."""

    task: Task
    config: StageConfig
    share: float = 1.0
    """Its share of the minutes."""


def stage(task: Task, batch: int, learning_rate: float, share: float = 1.0, **more: Any) -> Stage:
    """A stage with the budget that all baselines have; ``more`` are settings of StageConfig."""
    config = StageConfig(
        steps=20_000,
        batch=batch,
        learning_rate=learning_rate,
        **{"ema": 0.99, "validate_every": 200, **more},
    )
    return Stage(task=task, config=config, share=share)


@dataclass(frozen=True, kw_only=True)
class System:
    """One baseline."""

    name: str
    about: str
    """What it is after and where it departs, for its card."""
    features: str
    """Its speech features by default."""
    settings: type[Any]
    """Its configuration, a :class:`difftalker.baselines.nets.BaselineConfig`."""
    network: Callable[[Any], Any]
    """Its networks, a :class:`BaselineNet`, from a configuration."""
    stages: Callable[[Any, Any, Dataset, BaselineOptions], list[Stage]]
    """Its training, from networks, configuration, dataset and options."""
    renderer: type[BaselineRenderer]
