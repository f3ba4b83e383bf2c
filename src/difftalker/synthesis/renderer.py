"""Masked crops and points in, faces out: by diffusion (Section 2.4), or in one light pass.

A renderer is a replaceable part of an avatar: whatever has what :class:`Renderer` has can take the
place of the diffusion.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.config import ModelConfig, SamplingConfig
from difftalker.core.device import autocast, has_fast_bfloat16
from difftalker.errors import UsageError
from difftalker.face.compose.blend import RING_PX
from difftalker.face.crop import CELL, boxes_hull, boxes_window
from difftalker.face.draw import landmark_maps
from difftalker.face.landmarks import UPPER
from difftalker.face.lips import correct_openings
from difftalker.store.calibration import UNMEASURED, Calibration
from difftalker.synthesis.autoencoder import Autoencoder, high_pass, mask_out, to_images, to_pixels
from difftalker.synthesis.decoding import decode_part
from difftalker.synthesis.light import LightNet
from difftalker.synthesis.net import Guidance, SynthesisNet
from difftalker.synthesis.region import box_mask
from difftalker.synthesis.sampling import sample

TONE_PX = 4
"""Every how many pixels the colour of skin is looked at."""

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Renderer(abc.ABC):
    """What generates faces under landmarks, speech, or both."""

    size_px: int
    """Side of its crops."""
    uses_landmarks: bool
    """Whether landmarks condition it."""
    uses_audio: bool
    """Whether speech conditions it."""
    key: str
    """A hash of everything that makes its pictures: weights, settings, seed."""

    @abc.abstractmethod
    def render(
        self,
        crops: Image,
        boxes: NDArray[np.int32],
        points_crop: Floats,
        windows: Floats | None = None,
    ) -> Image:
        """Generate lower faces: crops (n, S, S, 3), boxes (n, 4), points (n, 68, 2) -> crops.

        Points are in crop units, boxes in pixels (top, bottom, left, right). ``windows``
        (n, W, features) are the speech around the frames, for a renderer that uses audio. What the
        crops show of lower faces within their boxes never reaches the networks. The frames are of
        one shot; far from all boxes the result is the crops.

        Raises:
            UsageError: speech alone conditions it, and there are no windows.
        """

    def hide(self, crops: Image, boxes: NDArray[np.int32], points_crop: Floats) -> Image:
        """The crops with black where nothing of them is used; what they are, see :meth:`render`."""
        hidden = crops.copy()
        for crop, (top, bottom, left, right) in zip(hidden, boxes, strict=True):
            crop[top:bottom, left:right] = 0
        return hidden

    def _check_speech(self, windows: Floats | None) -> None:
        if windows is None and not self.uses_landmarks:
            raise UsageError(
                "no speech for an avatar that renders from speech alone",
                wanted="windows of speech features",
            )

    def whole_face(self, points_crop: Floats) -> Image:
        """A whole face in the light of the training footage; (68, 2) crop units -> (S, S, 3)."""
        size = self.size_px
        box = np.array([[0, size, 0, size]], np.int32)
        nothing = np.zeros((1, size, size, 3), np.uint8)
        return np.asarray(self.render(nothing, box, points_crop[None])[0])


class DiffusionRenderer(Renderer):
    """Encodes masked crops, denoises their lower latents, and decodes these (Eqs. 4 and 6).

    All frames start from one noise, so that neighbours differ by their conditions alone.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        net: SynthesisNet,
        config: ModelConfig,
        sampling: SamplingConfig,
        *,
        calibration: Calibration = UNMEASURED,
        seed: int = 0,
        key: str = "",
        device: str = "cpu",
    ) -> None:
        self._autoencoder, self._net, self._config = autoencoder, net, config
        self._sampling, self._seed, self._device = sampling, seed, device
        self._calibration = calibration
        self.size_px, self.key = config.size_px, key
        self.uses_landmarks = config.synthesis.uses_landmarks
        self.uses_audio = config.synthesis.uses_audio

    def render(
        self,
        crops: Image,
        boxes: NDArray[np.int32],
        points_crop: Floats,
        windows: Floats | None = None,
    ) -> Image:
        """Generate lower faces; see :meth:`Renderer.render`."""
        self._check_speech(windows)
        with torch.inference_mode(), autocast(self._device):
            pixels = to_pixels(torch.from_numpy(crops).to(self._device))
            places = torch.from_numpy(boxes).to(self._device)
            masked = mask_out(pixels, box_mask(places, self.size_px))
            known = self._autoencoder.encode(masked)
            mask = box_mask(places, known.shape[-1], CELL)
            latents = self._denoised(known, mask, self._guidance(known, points_crop, windows))
            return self._decoded(latents, boxes, crops)

    def _guidance(self, known: Tensor, points_crop: Floats, windows: Floats | None) -> Guidance:
        maps = speech = None
        if self.uses_landmarks:
            if added := self._calibration.openings:
                points_crop = correct_openings(points_crop, added)
            drawn = torch.from_numpy(landmark_maps(points_crop, self.size_px)).to(self._device)
            dtype = torch.bfloat16 if has_fast_bfloat16(self._device) else torch.float32
            maps = drawn.to(dtype, memory_format=torch.channels_last) / 255
        if self.uses_audio and windows is not None:
            speech = torch.from_numpy(windows).to(self._device)
        return self._net.guide(known, maps=maps, windows=speech)

    def _denoised(self, known: Tensor, mask: Tensor, guidance: Guidance) -> Tensor:
        """Latents (n, C, h, w): new where the mask is 1, ``known`` elsewhere."""
        prior = self._config.prior
        # Drawn on the CPU, so that a seed means the same on every device.
        generator = torch.Generator().manual_seed(self._seed)
        noise = torch.randn(known.shape[1:], generator=generator)
        return sample(
            lambda z, t: self._net(z, t, guidance),
            known,
            mask,
            noise.to(known).expand_as(known),
            sampler=self._sampling.sampler,
            steps=self._sampling.steps,
            prediction=prior.prediction,
            timesteps=prior.timesteps,
            seed=self._seed,
        )

    def _decoded(self, latents: Tensor, boxes: NDArray[np.int32], crops: Image) -> Image:
        """Pictures (n, S, S, 3) that are new about the boxes, at least."""
        around = boxes_hull(boxes, self.size_px, RING_PX + CELL)
        cells = [slice(s.start // CELL, s.stop // CELL) for s in around]
        part = decode_part(self._autoencoder, latents, *cells)
        if part is None:
            return self._shown(self._autoencoder.decode(latents))
        out = crops.copy()
        out[:, around[0], around[1]] = self._shown(part)
        return out

    def _shown(self, pixels: Tensor) -> Image:
        return to_images(sharpened(pixels, self._calibration.detail)).cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the light network keeps of pictures whatever is said: features of a window of them."""

    rows: slice
    columns: slice
    levels: list[Tensor]
    """[(n, D, h, w)], finest first."""
    shown: Tensor
    """(n, 3, H, W): what stays in sight of the pictures, -1..1."""
    share: Tensor
    """(n, 1, H, W): weight of a new picture over it."""
    tone: Tensor | None = None
    """(n, 2, 3): mean and spread of the colours of the skin in sight."""


class LightRenderer(Renderer):
    """One pass of the light network over the part of the crops about their boxes."""

    def __init__(
        self,
        net: LightNet,
        size_px: int,
        *,
        calibration: Calibration = UNMEASURED,
        key: str = "",
        device: str = "cpu",
    ) -> None:
        self._net, self._calibration, self._device = net, calibration, device
        self.size_px, self.key = size_px, key
        self.uses_landmarks, self.uses_audio = net.motion is not None, net.speech is not None
        self._asked: tuple[bytes, tuple[Tensor, Tensor]] | None = None

    def render(
        self,
        crops: Image,
        boxes: NDArray[np.int32],
        points_crop: Floats,
        windows: Floats | None = None,
    ) -> Image:
        """Generate lower faces; see :meth:`Renderer.render`."""
        self._check_speech(windows)
        scene = self.scene(crops, boxes, points_crop)
        out = crops.copy()
        out[:, scene.rows, scene.columns] = self.generate(scene, points_crop, windows)
        return out

    @torch.inference_mode()
    def hide(self, crops: Image, boxes: NDArray[np.int32], points_crop: Floats) -> Image:
        """The crops with black where nothing of them is used; see :meth:`Renderer.hide`."""
        mask, share = self._hidden(boxes, points_crop)
        new = ((mask > 0) & (share >= 1))[:, 0, :, :, None].cpu().numpy()
        return np.where(new, np.uint8(0), crops)

    @torch.inference_mode()
    def scene(self, crops: Image, boxes: NDArray[np.int32], points_crop: Floats) -> Scene:
        """What stays of crops (n, S, S, 3) with boxes (n, 4), encoded once for any speech.

        Of points (n, 68, 2) only the upper ones count.
        """
        rows, columns = boxes_window(
            boxes, self.size_px, self._net.step_px, RING_PX, self._net.grid_px
        )
        seen = torch.from_numpy(np.ascontiguousarray(crops[:, rows, columns])).to(self._device)
        mask, share = (one[:, :, rows, columns] for one in self._hidden(boxes, points_crop))
        shown, tone = to_pixels(seen), self._tone(crops, boxes, points_crop)
        with autocast(self._device):
            levels = self._net.encode_scene(shown, mask, tone)
        return Scene(rows=rows, columns=columns, levels=levels, shown=shown, share=share, tone=tone)

    @torch.inference_mode()
    def generate(self, scene: Scene, points_crop: Floats, windows: Floats | None) -> Image:
        """The pictures (n, H, W, 3) of a scene's part of the crops, under points (n, 68, 2)."""
        speech = None if windows is None else torch.from_numpy(windows).to(self._device)
        with autocast(self._device):
            maps = self._maps(points_crop, scene)
            made = self._net(scene.levels, maps, speech, scene.tone).float()
        made = sharpened(made, self._calibration.light_detail)
        return to_images(torch.lerp(scene.shown, made, scene.share)).cpu().numpy()

    def _hidden(self, boxes: NDArray[np.int32], points_crop: Floats) -> tuple[Tensor, Tensor]:
        """What is masked, and the share of the new picture; kept for the one who asks next.

        A dub hides the crops first (:meth:`hide`) and then renders them.
        """
        upper = points_crop[:, list(UPPER)]
        key = boxes.tobytes() + upper.tobytes()
        asked, self._asked = self._asked, None
        if asked and asked[0] == key:
            return asked[1]
        places = torch.from_numpy(boxes).to(self._device)
        found = self._net.hidden(places, torch.from_numpy(upper).to(self._device), self.size_px)
        self._asked = key, found
        return found

    def _tone(self, crops: Image, boxes: NDArray[np.int32], points_crop: Floats) -> Tensor | None:
        small = to_pixels(torch.from_numpy(np.ascontiguousarray(crops[:, ::TONE_PX, ::TONE_PX])))
        upper = torch.from_numpy(points_crop[:, list(UPPER)])
        tone = self._net.tone(small, torch.from_numpy(boxes), upper, self.size_px)
        return None if tone is None else tone.to(self._device)

    def _maps(self, points_crop: Floats, scene: Scene) -> Tensor | None:
        if not self.uses_landmarks:
            return None
        if added := self._calibration.light_openings:
            points_crop = correct_openings(points_crop, added)
        share = self._net.map_share
        drawn = landmark_maps(points_crop, self.size_px // share)
        rows, columns = (
            slice(s.start // share, s.stop // share) for s in (scene.rows, scene.columns)
        )
        maps = torch.from_numpy(np.ascontiguousarray(drawn[:, :, rows, columns]))
        return maps.to(self._device).float().contiguous(memory_format=torch.channels_last) / 255


def sharpened(pixels: Tensor, detail: float) -> Tensor:
    """Generated pictures (n, 3, H, W) with ``detail`` of their finest added."""
    if not detail:
        return pixels
    pixels = pixels.float()
    return pixels + detail * high_pass(pixels)
