"""The stage of the light network: one pass, learned from the footage and from the diffusion.

The footage shows mouths under their own upper faces. In a dub the upper face is of another moment:
what is right there the diffusion knows, and its pictures are learned from as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from difftalker.config import CompletionConfig, LightRecipe, SynthesisConfig, SynthesisRecipe
from difftalker.data.dataset import Dataset, frame_index
from difftalker.data.latents import keep
from difftalker.experts.critic import Critic
from difftalker.face.compose.blend import RING_PX
from difftalker.face.crop import CELL, boxes_hull, boxes_window
from difftalker.face.draw import contact_sheet, landmark_maps
from difftalker.face.landmarks import UPPER
from difftalker.store.calibration import Calibration
from difftalker.store.journal import key_of
from difftalker.synthesis.autoencoder import to_pixels
from difftalker.synthesis.light import LightNet
from difftalker.synthesis.region import box_mask
from difftalker.synthesis.renderer import TONE_PX, LightRenderer, Renderer
from difftalker.training.bars import bar
from difftalker.training.calibrate import missing_detail, openings_of
from difftalker.training.tasks import mouth_mask, psnr
from difftalker.training.tasks.conditions import Conditions, Floats, Rows
from difftalker.training.tasks.pictures import Places, draw_corners, on_device, picture_loss

CRITIC_PX = 128
"""The largest side of the critic's patches: detail is what it sees."""
SEED = 1
"""Where the draw of conditions begins under which the diffusion's pictures are made."""


@dataclass(frozen=True, kw_only=True)
class Taught:
    """Pictures of the diffusion, and what they were made from."""

    rows: Rows
    """(m, 2): frames whose mouths they show."""
    known: Rows
    """(m, 2): frames whose upper faces they have."""
    spoken: Rows
    """(m, 2): frames whose speech was heard."""
    points: Floats
    """(m, 68, 2): drawn landmarks, crop units."""
    place: tuple[slice, slice]
    """Rows and columns of the crops that are kept."""
    pictures: NDArray[np.uint8]
    """(m, H, W, 3): generated lower faces."""


class LightTask:
    """The light network against its critic."""

    name = "light"

    def __init__(
        self,
        net: LightNet,
        teacher: Renderer | None,
        data: Dataset,
        folder: Path,
        *,
        stride: int,
        synthesis: SynthesisConfig,
        speech: CompletionConfig,
        conditions: SynthesisRecipe,
        completed_share: float = 0.0,
        recipe: LightRecipe | None = None,
        device: str = "cpu",
    ) -> None:
        """``folder`` keeps what the ``teacher`` makes; ``stride`` is that of the footage.

        Without a teacher it learns from the footage alone.
        """
        self._net, self._teacher, self._data, self._folder = net, teacher, data, folder
        self._critic, self.device = Critic().to(device), device
        self.model = nn.ModuleDict({"light": net, "critic": self._critic})
        self._recipe = recipe or LightRecipe()
        self._index = frame_index(data.train, stride)
        self._learned = self._index[:: self._recipe.taught_stride] if teacher else self._index[:0]
        self._conditions = Conditions(
            data,
            self._index,
            synthesis,
            speech=speech,
            recipe=conditions,
            completed_share=completed_share,
        )
        self._taught: Taught | None = None
        faces = torch.cat([torch.from_numpy(one.points_crop[one.found]) for one in data.train])
        net.fit_reach(faces.to(device), faces[:, list(UPPER)].to(device))
        self._reach = net.reach.float().cpu()
        self.examples = len(self._index) + len(self._learned)

    def prepare(self) -> None:
        """Complete landmarks, and have the teacher make its pictures; see ``trainer.Prepares``."""
        self._conditions.prepare()
        teacher = self._teacher
        if teacher is None:
            return
        generator, rows = torch.Generator().manual_seed(SEED), self._learned
        always = replace(self._conditions.recipe, other_upper_share=1.0)
        conditions = self._conditions.over(rows, always)
        known = rows[conditions.known(np.arange(len(rows)), generator)]
        points = conditions.points(rows, known, generator)
        spoken = conditions.spoken(rows, known, generator)
        boxes = self._boxes(known)
        place = boxes_hull(boxes, self._data.size_px, RING_PX)
        heard = self._windows(spoken)

        def make(chosen: Rows) -> list[Tensor]:
            at = chosen[:, 0]
            crops = self._images(known[at])
            speech = None if heard is None else heard[at].numpy()
            made = teacher.render(crops, boxes[at], points[at], speech)
            return [torch.from_numpy(np.ascontiguousarray(made[:, place[0], place[1]]))]

        made_of: dict[str, object] = {"key": key_of(teacher.key, points, known, spoken)}
        numbers = np.arange(len(rows))[:, None]
        with bar("pictures") as progress:
            (pictures,) = keep(
                *(self._folder, ("pictures",), numbers, make, made_of, progress), dtype=np.uint8
            )
        self._taught = Taught(
            rows=rows, known=known, spoken=spoken, points=points, place=place, pictures=pictures
        )

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Examples on the device; see ``trainer.Task``."""
        whole = bool(torch.rand((), generator=generator) < self._recipe.whole_share)
        own = indices < len(self._index)
        if whole:  # of footage alone: the teacher's pictures are lower faces
            indices, own = indices % len(self._index), np.ones(len(indices), bool)
        rows, known, spoken, points = self._examples(indices, own, generator)
        size_px, true = self._data.size_px, self._images(rows)
        above = np.where(own[:, None, None, None], true, self._images(known))
        boxes = self._boxes(known)
        if whole:
            boxes[:] = 0, size_px, 0, size_px
        upper = torch.from_numpy(self._points(known)[:, list(UPPER)])
        hidden, share = self._net.hidden(torch.from_numpy(boxes), upper, size_px, reach=self._reach)
        self._teach(true, above, share[:, 0, :, :, None].numpy(), np.where(own, -1, indices))
        place = boxes_window(boxes, size_px, self._net.step_px, RING_PX, self._net.grid_px)
        shifted = boxes - np.repeat([s.start for s in place], 2).astype(np.int32)
        shape = tuple(s.stop - s.start for s in place)
        cells = [slice(s.start // CELL, s.stop // CELL) for s in place]
        mouth = mouth_mask(torch.from_numpy(points), size_px // CELL)
        shown = torch.from_numpy(shifted)
        corners = draw_corners(shown, (shape[0], shape[1]), self._side_px(shape), generator)
        batch = {
            "true": torch.from_numpy(true[:, place[0], place[1]].copy()),
            "above": torch.from_numpy(above[:, place[0], place[1]].copy()),
            "boxes": shown,
            "hidden": hidden[:, :, place[0], place[1]],
            **self._toned(above, boxes, upper),
            "mouth": mouth[:, :, cells[0], cells[1]],
            "corners": corners,
            "own": torch.from_numpy(np.flatnonzero(own)),
            **self._guides(spoken, points, place, generator),
        }
        return on_device(batch, self.device)

    def _examples(
        self, indices: NDArray[np.int64], own: NDArray[np.bool_], generator: torch.Generator
    ) -> tuple[Rows, Rows, Rows, Floats]:
        """Frames shown, those above, those heard, and points; of footage and of the teacher."""
        rows = self._index[np.where(own, indices, 0)]
        points = self._conditions.points(rows, rows, generator)
        if self._taught is None:
            return rows, rows, rows, points
        at, taught = np.where(own, 0, indices - len(self._index)), self._taught
        of_footage = own[:, None]
        return (
            np.where(of_footage, rows, taught.rows[at]),
            np.where(of_footage, rows, taught.known[at]),
            np.where(of_footage, rows, taught.spoken[at]),
            np.where(of_footage[..., None], points, taught.points[at]),
        )

    def _toned(
        self, above: NDArray[np.uint8], boxes: NDArray[np.int32], upper: Tensor
    ) -> dict[str, Tensor]:
        """The tone of pictures (n, S, S, 3), where the network uses it."""
        small = to_pixels(torch.from_numpy(np.ascontiguousarray(above[:, ::TONE_PX, ::TONE_PX])))
        tone = self._net.tone(small, torch.from_numpy(boxes), upper, self._data.size_px)
        return {} if tone is None else {"tone": tone}

    def _teach(
        self, true: NDArray[np.uint8], above: NDArray[np.uint8], share: Floats, indices: Rows
    ) -> None:
        """Put the teacher's pictures in the place of footage, in examples that are its own.

        The others have an index below zero; ``share`` (B, S, S, 1) is that of new pictures.
        """
        if self._taught is None:
            return
        part = self._taught.place
        for i in np.flatnonzero(indices >= 0):
            made = self._taught.pictures[indices[i] - len(self._index)].astype(np.float32)
            true[i] = above[i]
            over = share[i][part] * (made - above[i][part])
            true[i][part] = np.rint(above[i][part] + over).astype(np.uint8)

    def _guides(
        self, spoken: Rows, points: Floats, place: tuple[slice, slice], generator: torch.Generator
    ) -> dict[str, Tensor]:
        config, guides = self._conditions.config, {}
        if config.uses_landmarks:
            share = self._net.map_share
            drawn = landmark_maps(points, self._data.size_px // share)
            rows, columns = (slice(s.start // share, s.stop // share) for s in place)
            guides["maps"] = torch.from_numpy(drawn[:, :, rows, columns].copy())
        if config.uses_audio:
            heard = self._conditions.windows(self._data.train, spoken, generator)
            both = config.uses_landmarks
            guides["windows"] = self._conditions.jittered(heard, generator) if both else heard
        return guides

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        true, above = to_pixels(batch["true"]), to_pixels(batch["above"])
        height, width = true.shape[-2:]
        tone = batch.get("tone")
        scene = self._net.encode_scene(above, batch["hidden"], tone)
        maps = batch["maps"].float() / 255 if "maps" in batch else None
        made = self._net(scene, maps, batch.get("windows"), tone).float()
        return picture_loss(
            made,
            true,
            Places(
                boxes=batch["boxes"],
                mouth=batch["mouth"],
                corners=batch["corners"],
                hidden=batch["hidden"],
            ),
            self._critic,
            self._recipe,
            last=self._net.out.weight,
            side_px=self._side_px((height, width)),
            judged=batch["own"],
        )

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the clips; see ``trainer.Task``."""
        rows = np.concatenate([self._index, self._learned])[indices]
        return [self._data.train[int(c)].name for c in rows[:, 0]]

    def validate(self) -> dict[str, float]:
        """PSNR (dB) of lower faces held out, and of the teacher's."""
        renderers = {"psnr_lower": self._student(), "psnr_lower_teacher": self._teacher}
        numbers = {}
        for name, renderer in renderers.items():
            if renderer:
                true, made, boxes = self._watched(renderer)
                mask = box_mask(boxes, true.shape[1]).bool()[:, 0, :, :, None].expand(true.shape)
                numbers[name] = psnr(made[mask], true[mask])
        return numbers

    def sheet(self) -> NDArray[np.uint8] | None:
        """A contact sheet: footage and light, pair by pair; see ``trainer.Task``."""
        true, made, _ = self._watched(self._student())
        pairs = zip(true[::2].numpy(), made[::2].numpy(), strict=True)
        return contact_sheet([tile for pair in pairs for tile in pair], 4)

    @torch.no_grad()
    def calibration(self) -> Calibration:
        """The detail that the network's pictures lack, and how its mouths are to be drawn."""
        true, made, boxes = self._watched(self._student())
        detail = missing_detail(true, made, boxes, self._data.validation[0].side_px)
        student = self._student(Calibration(light_detail=detail))

        def render(rows: Rows) -> NDArray[np.uint8]:
            return self._rendered(student, rows)

        openings = openings_of(self._data.validation, render)
        return Calibration(light_detail=detail, light_openings=openings)

    def _student(self, calibration: Calibration | None = None) -> LightRenderer:
        return LightRenderer(
            self._net,
            self._data.size_px,
            calibration=calibration or Calibration(),
            device=self.device,
        )

    def _watched(self, renderer: Renderer) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures held out, the same as rendered, and their boxes."""
        clips = self._data.validation
        rows = frame_index(clips, 10)[:16]
        true = torch.from_numpy(np.stack([clips[c].frames[f] for c, f in rows]))
        boxes = torch.from_numpy(np.stack([clips[c].boxes[f] for c, f in rows]))
        return true, torch.from_numpy(self._rendered(renderer, rows)), boxes

    def _rendered(self, renderer: Renderer, rows: Rows) -> NDArray[np.uint8]:
        """Frames held out (n, 2) under their own conditions, (n, S, S, 3)."""
        clips = self._data.validation
        heard = None
        if self._conditions.config.uses_audio:
            heard = self._conditions.windows(clips, rows).numpy()
        return renderer.render(
            np.stack([clips[c].frames[f] for c, f in rows]),
            np.stack([clips[c].boxes[f] for c, f in rows]),
            np.stack([clips[c].points_crop[f] for c, f in rows]),
            heard,
        )

    def _windows(self, rows: Rows) -> Tensor | None:
        uses_audio = self._conditions.config.uses_audio
        return self._conditions.windows(self._data.train, rows) if uses_audio else None

    def _images(self, rows: Rows) -> NDArray[np.uint8]:
        """Crops (n, S, S, 3) of frames (n, 2)."""
        return np.stack([self._data.train[c].frames[f] for c, f in rows])

    def _points(self, rows: Rows) -> Floats:
        """Points (n, 68, 2) of frames (n, 2), crop units."""
        return np.stack([self._data.train[c].points_crop[f] for c, f in rows])

    def _boxes(self, rows: Rows) -> NDArray[np.int32]:
        return np.stack([self._data.train[c].boxes[f] for c, f in rows])

    def _side_px(self, shape: tuple[int, ...]) -> int:
        """Side of the critic's patches in a window: half the crop, or what there is of it."""
        return min(CRITIC_PX, self._data.size_px // 2, *shape)
