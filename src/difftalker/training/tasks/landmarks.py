"""The landmark stage: completion of landmarks by Eq. 1 (Section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.config import CompletionConfig, LandmarkRecipe
from difftalker.data.dataset import ClipData, Dataset, span_index
from difftalker.errors import TrainingError
from difftalker.face.draw import contact_sheet, overlay
from difftalker.face.landmarks import CONTOUR, LOWER, MOUTH, UPPER, lip_gaps
from difftalker.landmarks.completion import CompletionNet
from difftalker.training.cross_fit import complete, fit_to


class LandmarkTask:
    """Section 2.3: completion of landmarks by Eq. 1."""

    def __init__(
        self,
        model: CompletionNet,
        data: Dataset,
        *,
        span: int,
        lips_weight: float = 0.0,
        recipe: LandmarkRecipe | None = None,
        device: str = "cpu",
        name: str = "landmarks",
    ) -> None:
        """``lips_weight`` is that of the lips' opening beside Eq. 1, ``name`` the stage's."""
        self.name = name
        self.model, self.device, self.span, self.lips_weight = model, device, span, lips_weight
        self._recipe = recipe or LandmarkRecipe()
        config: CompletionConfig = model.config
        self._clips, self._watched = data.train, data.validation
        self._windows = [c.windows_of_all(config.features, config.window) for c in self._clips]
        self._watched_windows = [c.windows(config.features, config.window) for c in self._watched]
        self._spans = span_index(self._clips, span)
        self.examples = len(self._spans)
        if not self.examples:
            raise TrainingError(
                f"no clip shows a face for {span} frames in a row",
                wanted="one at least",
                fix="lower training.span_frames",
            )

    fitted = ("opening.",)
    """Frozen parts of the model that ``fit`` sets; see ``trainer.Fits``."""

    def fit(self) -> None:
        """Fit mean faces, least squares and opening network to the clips."""
        fit_to(self.model, self._clips, self._windows)

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Examples on the device; see ``trainer.Task``."""
        rows = [(int(c), slice(int(f), int(f) + self.span)) for c, f in self._spans[indices]]
        points = torch.from_numpy(np.stack([self._clips[c].points_crop[s] for c, s in rows]))
        windows = torch.from_numpy(
            np.stack([any_voice(self._windows[c], generator)[s] for c, s in rows])
        )
        moved = _moved(points, self._recipe, generator)
        return {"points": moved.to(self.device), "windows": windows.to(self.device)}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        points, windows = batch["points"], batch["windows"]
        # Half of the faces also get the speech of another.
        also = len(points) // 2 if self.lips_weight else 0
        said, heard = points.roll(1, 0)[:also], windows.roll(1, 0)[:also]
        upper = points[:, :, list(UPPER)]
        out = self.model(torch.cat([upper, upper[:also]]), torch.cat([windows, heard]))
        own = slice(len(points))
        lower = _squared_error(out.points[own], points, LOWER)
        base = _squared_error(out.base_mouth[own], points[:, :, list(MOUTH)])
        base += _squared_error(out.base_contour[own], points[:, :, list(CONTOUR)])
        lips = _lips_error(out.points, torch.cat([points, said]))
        # Squared errors are of the order 1e-5; the scale keeps them above Adam's epsilon.
        loss = 1e3 * (lower + self._recipe.base_weight * base + self.lips_weight * lips)
        return {"loss": loss, "mse": lower, "lips": lips}

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the clips; see ``trainer.Task``."""
        return [self._clips[int(c)].name for c in self._spans[indices, 0]]

    def validate(self) -> dict[str, float]:
        """Mean Euclidean distances in crop units; ``other``: heard with the next clip's audio."""
        own: list[NDArray[np.float32]] = []
        other: list[NDArray[np.float32]] = []
        for i, clip in enumerate(self._watched):
            found = clip.found
            wrong = self._watched_windows[(i + 1) % len(self._watched)]
            heard = wrong[np.arange(len(clip)) % len(wrong)]
            for kept, windows in ((own, self._watched_windows[i]), (other, heard)):
                errors = self._errors(clip, windows)
                kept.append(errors[found])
        mine, theirs = np.concatenate(own), np.concatenate(other)
        contour, mouth = slice(0, len(CONTOUR)), slice(len(CONTOUR), None)
        return {
            "error": float(mine.mean()),
            "contour": float(mine[:, contour].mean()),
            "mouth": float(mine[:, mouth].mean()),
            "mouth_other_audio": float(theirs[:, mouth].mean()),
        }

    def sheet(self) -> NDArray[np.uint8] | None:
        """A contact sheet; see ``trainer.Task``."""
        clip = self._watched[0]
        out = complete(self.model, clip.points_crop, self._watched_windows[0], self.device)
        size = clip.frames.shape[1]
        tiles = []
        for f in np.flatnonzero(clip.found)[:: max(1, len(clip) // 8)][:8]:
            truth = overlay(clip.frames[f], clip.points_crop[f] * size)
            tiles += [truth, overlay(clip.frames[f], out[f] * size, (255, 80, 80))]
        return contact_sheet(tiles, 4)

    def _errors(self, clip: ClipData, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        out = complete(self.model, clip.points_crop, windows, self.device)
        gaps = (out - clip.points_crop)[:, list(LOWER)]
        distances: NDArray[np.float32] = np.linalg.norm(gaps, axis=-1)
        return distances


def any_voice(
    voices: Sequence[NDArray[np.float32]], generator: torch.Generator
) -> NDArray[np.float32]:
    """One of several voices, drawn; a single one takes no draw."""
    if len(voices) == 1:
        return voices[0]
    return voices[int(torch.randint(len(voices), (), generator=generator))]


def _squared_error(found: Tensor, true: Tensor, indices: Sequence[int] = ()) -> Tensor:
    """Eq. 1 over the points of ``indices``, or over all."""
    if indices:
        found, true = found[:, :, list(indices)], true[:, :, list(indices)]
    return (found.float() - true).square().sum(-1).mean()


def _lips_error(found: Tensor, true: Tensor) -> Tensor:
    """Squared error of the lip gaps of points (B, F, 68, 2), crop units.

    Eq. 1 alone leaves the lips open where they meet: a mean of many mouths is never shut.
    """
    return _squared_error(lip_gaps(found), lip_gaps(true))


def _moved(points: Tensor, recipe: LandmarkRecipe, generator: torch.Generator) -> Tensor:
    """Points (B, F, 68, 2) turned, scaled and shifted a little, one way a span."""
    count = len(points)
    angle = torch.randn(count, generator=generator) * recipe.rotation_rad
    scale = 1 + torch.randn(count, generator=generator) * recipe.scaling
    shift = torch.randn(count, 1, 1, 2, generator=generator) * recipe.shift_crop
    cos, sin = angle.cos() * scale, angle.sin() * scale
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    middle = points.mean((1, 2), keepdim=True)
    return torch.einsum("bij,bfpj->bfpi", turn, points - middle) + middle + shift
