"""Landmarks and speech of the frames to learn from, as they are in use.

In a dub the upper face is of one moment and the mouth of another, landmarks are completed, and
speech is somebody else's. Stages that learn to render see such examples: Eq. 4 with the conditions
of Section 2.4.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.config import CompletionConfig, SynthesisConfig, SynthesisRecipe
from difftalker.data.dataset import ClipData, Dataset
from difftalker.face.landmarks import UPPER
from difftalker.face.lips import open_as
from difftalker.training.cross_fit import completed_by_others
from difftalker.training.tasks.landmarks import any_voice

Rows = NDArray[np.int64]
"""Frames (n, 2): clip and frame."""
Floats = NDArray[np.float32]


class Conditions:
    """Draws what conditions the frames of ``index`` (n, 2), clip and frame of the training set."""

    def __init__(
        self,
        data: Dataset,
        index: Rows,
        config: SynthesisConfig,
        *,
        speech: CompletionConfig,
        recipe: SynthesisRecipe,
        completed_share: float = 0.0,
    ) -> None:
        """``completed_share`` of the faces have landmarks as in use, smoother than footage's."""
        self.config, self._data, self._index = config, data, index
        self._speech, self.recipe, self._completed_share = speech, recipe, completed_share
        self.completed: list[Floats] = []
        self._windows = {
            clip.name: clip.windows_of_all(speech.features, speech.window)
            for clip in (data.train + data.validation if config.uses_audio else [])
        }
        middles = [voices[0][:, speech.window // 2] for voices in self._windows.values()]
        spread = np.concatenate(middles).std(0) if middles else np.zeros(0, np.float32)
        self._speech_jitter = recipe.speech_jitter * torch.from_numpy(spread)

    def over(self, index: Rows, recipe: SynthesisRecipe) -> Conditions:
        """The same for other frames (n, 2), drawn by another recipe; what is known is shared."""
        other = copy(self)
        other.__dict__.pop("_of_clip", None)
        other._index, other.recipe = index, recipe
        return other

    @cached_property
    def _of_clip(self) -> dict[int, NDArray[np.int64]]:
        clips = self._index[:, 0]
        return {int(c): np.flatnonzero(clips == c) for c in np.unique(clips)}

    def prepare(self) -> None:
        """Complete each clip's landmarks by fits to the others; see ``trainer.Prepares``."""
        if self.config.uses_landmarks and self._completed_share and len(self._index):
            self.completed = completed_by_others(self._speech, self._data.train)

    def known(self, indices: NDArray[np.int64], generator: torch.Generator) -> NDArray[np.int64]:
        """Examples (B,) whose upper faces are seen above the lower ones of examples (B,).

        A share is of another moment of the clip, with the head held alike.
        """
        known = indices.copy()
        chosen = torch.rand(len(indices), generator=generator) < self.recipe.other_upper_share
        drawn = torch.randint(len(self._index), (len(indices),), generator=generator).numpy()
        for i in np.flatnonzero(chosen.numpy()):
            same_clip = self._of_clip[int(self._index[indices[i], 0])]
            other = same_clip[drawn[i] % len(same_clip)]
            own, above = self._upper(self._index[[indices[i], other]])
            if np.linalg.norm(above - own, axis=-1).mean() < self.recipe.alike_crop:
                known[i] = other
        return known

    def _upper(self, rows: Rows) -> Floats:
        """Upper points (n, 37, 2) of the frames (n, 2)."""
        return np.stack([self._data.train[c].points_crop[f, list(UPPER)] for c, f in rows])

    def points(self, rows: Rows, known: Rows, generator: torch.Generator) -> Floats:
        """Points (B, 68, 2) of frames (B, 2) under the upper faces of ``known`` (B, 2).

        Some are completed. A completed face is of the moment of the upper one, with lips as far
        open as they are: what is drawn there is what is generated, not a guess at it by the jaw.
        """
        points = np.stack([self._data.train[c].points_crop[f] for c, f in rows])
        jitter = np.zeros_like(points)
        if self.config.uses_landmarks:
            noise = torch.randn(points.shape, generator=generator)
            jitter = (noise * self.recipe.point_jitter).numpy()
        drawn: Floats = points + jitter
        if self.completed:
            faces = np.stack([self.completed[c][f] for c, f in known])
            completed = open_as(faces + jitter, points)
            chosen = torch.rand(len(points), generator=generator) < self._completed_share
            drawn = np.where(chosen.numpy()[:, None, None], completed, drawn)
        drawn[:, list(UPPER)] = self._upper(known) + jitter[:, list(UPPER)]
        return drawn

    def spoken(self, rows: Rows, known: Rows, generator: torch.Generator) -> Rows:
        """The frames (B, 2) whose speech is heard: a share of those of the upper faces.

        Lips are then as far open as they are drawn, whatever is said.
        """
        share = self.recipe.other_speech_share if self.config.uses_landmarks else 0.0
        other = torch.rand(len(rows), generator=generator) < share
        return np.where(other.numpy()[:, None], known, rows)

    def windows(
        self, clips: list[ClipData], rows: Rows, voices: torch.Generator | None = None
    ) -> Tensor:
        """Speech (B, W, features) of frames (B, 2), each in a drawn voice; without, in its own."""
        spoken = [self._windows[clips[c].name] for c, _ in rows]
        chosen = [any_voice(one, voices) if voices else one[0] for one in spoken]
        heard = np.stack([one[f] for one, (_, f) in zip(chosen, rows, strict=True)])
        return torch.from_numpy(heard)

    def jittered(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        """Speech (B, W, features) with noise, some of it missing: landmarks have to suffice."""
        heard = windows + torch.randn(windows.shape, generator=generator) * self._speech_jitter
        missing = torch.rand(len(windows), generator=generator) < self.recipe.no_speech_share
        return torch.where(missing[:, None, None], 0.0, heard)
