"""The light network of many faces: where everyone's own begins.

It learns to draw a mouth under landmarks in whatever light and skin the rest of the face has. All
people count alike, and each of them is many (``tasks.new_faces``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.config import (
    CompletionConfig,
    LightConfig,
    LightRecipe,
    StageConfig,
    SynthesisConfig,
    SynthesisRecipe,
)
from difftalker.data.dataset import Dataset
from difftalker.face.compose.blend import RING_PX
from difftalker.face.crop import CELL, boxes_window
from difftalker.face.draw import landmark_maps
from difftalker.face.landmarks import UPPER
from difftalker.synthesis.light import LightNet
from difftalker.synthesis.region import MARGIN, reach_towards
from difftalker.training.expert_job import ExpertJob, ExpertOptions
from difftalker.training.light_task import LightTask
from difftalker.training.tasks import mouth_mask
from difftalker.training.tasks.conditions import Floats, Rows
from difftalker.training.tasks.new_faces import NewFace, NewFaceRecipe, farthest_jaws, new_face
from difftalker.training.tasks.pictures import draw_corners, on_device

STAGE = StageConfig(
    steps=12000, batch=8, learning_rate=6e-4, ema=0.998, validate_every=500, checkpoint_every=100
)
RAREST = 4
"""How many times at most the frames of one person count, where others have more."""


def job(data: Dataset, options: ExpertOptions) -> ExpertJob:
    """What `difftalker train-expert faces` trains."""
    config, synthesis = LightConfig(normalised=True), SynthesisConfig(guidance="both")
    speech = CompletionConfig()
    net = LightNet(config, synthesis, speech).to(options.device)
    task = FacesTask(
        net.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        data,
        options.run,
        synthesis=synthesis,
        speech=speech,
        device=options.device,
    )
    people = sorted({clip.person for clip in data.train})
    return ExpertJob(
        task=task,
        net=net,
        stage=STAGE,
        config=asdict(config),
        unseen=task.validate,
        about="The light network of many faces, from which the one of a new face begins: "
        "`difftalker train` and `difftalker dub` without an avatar.",
        corpora="the GRID audiovisual sentence corpus (Cooke, Barker, Cunningham and Shao, 2006), "
        f"speakers {', '.join(people)}, CC BY 4.0",
    )


class FacesTask(LightTask):
    """The light network against its critic, on faces that nobody has."""

    name = "faces"

    def __init__(
        self,
        net: LightNet,
        data: Dataset,
        folder: Path,
        *,
        synthesis: SynthesisConfig,
        speech: CompletionConfig,
        recipe: LightRecipe | None = None,
        faces: NewFaceRecipe | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            net,
            None,
            data,
            folder,
            stride=1,
            synthesis=synthesis,
            speech=speech,
            conditions=SynthesisRecipe(),
            recipe=recipe or LightRecipe(whole_share=0.06),
            device=device,
        )
        self._faces = faces or NewFaceRecipe()
        people = [clip.person for clip in data.train]
        self._index = balanced(self._index, people)
        self.examples = len(self._index)
        points = {
            person: np.concatenate(
                [c.points_crop[c.found] for c in data.train if c.person == person]
            )
            for person in dict.fromkeys(people)
        }
        farthest = {person: farthest_jaws(one) for person, one in points.items()}
        self._jaws = [farthest[person] for person in people]

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Examples on the device; see ``trainer.Task``."""
        size_px = self._data.size_px
        whole = bool(torch.rand((), generator=generator) < self._recipe.whole_share)
        rows = self._index[indices]
        faces = self._new_faces(rows, generator)
        boxes = np.stack([face.box for face in faces])
        if whole:
            boxes[:] = 0, size_px, 0, size_px
        points = np.stack([face.points for face in faces])
        hidden = self._hidden(faces, boxes, generator)
        places = _windows(boxes, size_px, self._net.step_px, self._net.grid_px)
        pictures = np.stack([f.picture[place] for f, place in zip(faces, places, strict=True)])
        starts = np.array([[p[0].start, p[0].start, p[1].start, p[1].start] for p in places])
        shown = torch.from_numpy((boxes - starts).astype(np.int32))
        shape = pictures.shape[1:3]
        mouth = mouth_mask(torch.from_numpy(points), size_px // CELL)
        noise = torch.randn(points.shape, generator=generator).numpy()
        drawn = points + noise * self._conditions.recipe.point_jitter
        batch = {
            "true": torch.from_numpy(pictures),
            "above": torch.from_numpy(pictures),
            "boxes": shown,
            "hidden": _cut(hidden, places, 1),
            "mouth": _cut(mouth, places, CELL),
            **self._toned(
                np.stack([face.picture for face in faces]),
                boxes,
                torch.from_numpy(points[:, list(UPPER)]),
            ),
            "corners": draw_corners(shown, shape, self._side_px(shape), generator),
            "own": torch.arange(len(rows)),
            **self._heard_and_drawn(rows, drawn.astype(np.float32), places, generator),
        }
        return on_device(batch, self.device)

    def _new_faces(self, rows: Rows, generator: torch.Generator) -> list[NewFace]:
        """Another face of each of the frames (n, 2)."""
        seeds = torch.randint(2**31, (len(rows),), generator=generator).tolist()
        boxes, points, pictures = self._boxes(rows), self._points(rows), self._images(rows)
        return [
            new_face(
                NewFace(
                    picture=pictures[i], points=points[i], box=boxes[i], jaws=self._jaws[rows[i, 0]]
                ),
                self._faces,
                np.random.default_rng(seed),
            )
            for i, seed in enumerate(seeds)
        ]

    def _hidden(
        self, faces: Sequence[NewFace], boxes: NDArray[np.int32], generator: torch.Generator
    ) -> Tensor:
        """What is masked, (n, 1, S, S): as far as these jaws come, or somewhat farther."""
        jaws = torch.from_numpy(np.stack([face.jaws for face in faces]))
        farther = torch.rand((len(faces), 1), generator=generator) * MARGIN
        upper = torch.from_numpy(np.stack([face.points[list(UPPER)] for face in faces]))
        reach = reach_towards(jaws) + farther
        size_px = self._data.size_px
        return self._net.hidden(torch.from_numpy(boxes), upper, size_px, reach=reach)[0]

    def _heard_and_drawn(
        self,
        rows: Rows,
        points: Floats,
        places: Sequence[tuple[slice, slice]],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        guides, config = {}, self._conditions.config
        if config.uses_landmarks:
            share = self._net.map_share
            drawn = torch.from_numpy(landmark_maps(points, self._data.size_px // share))
            guides["maps"] = _cut(drawn, places, share)
        if config.uses_audio:
            heard = self._conditions.windows(self._data.train, rows, generator)
            guides["windows"] = self._conditions.jittered(heard, generator)
        return guides


def balanced(index: Rows, people: Sequence[str], rarest: int = RAREST) -> Rows:
    """Frames (n, 2) of clips of ``people``, those of rare ones up to ``rarest`` times."""
    of = np.array(people)[index[:, 0]]
    counts = {person: int((of == person).sum()) for person in dict.fromkeys(people)}
    most = max(counts.values())
    times = {person: min(rarest, -(-most // max(1, n))) for person, n in counts.items()}
    parts = [np.repeat(index[of == person], n, axis=0) for person, n in times.items()]
    return np.concatenate(parts)


def _windows(
    boxes: NDArray[np.int32], size_px: int, step_px: int, grid_px: int
) -> list[tuple[slice, slice]]:
    """Rows and columns about each of the boxes (n, 4), all of one size."""
    own = [boxes_window(box[None], size_px, step_px, RING_PX, grid_px) for box in boxes]
    sides = [max(place[axis].stop - place[axis].start for place in own) for axis in (0, 1)]
    return [
        (_widened(place[0], sides[0], size_px), _widened(place[1], sides[1], size_px))
        for place in own
    ]


def _widened(place: slice, side: int, size_px: int) -> slice:
    start = min(place.start, size_px - side)
    return slice(start, start + side)


def _cut(pictures: Tensor, places: Sequence[tuple[slice, slice]], cell: int) -> Tensor:
    """A window of each picture (n, C, S / cell, S / cell)."""
    parts = [
        one[:, rows.start // cell : rows.stop // cell, columns.start // cell : columns.stop // cell]
        for one, (rows, columns) in zip(pictures, places, strict=True)
    ]
    return torch.stack(parts).contiguous()
