"""One person's networks, and the parts that they are used through: completer, renderer, speech."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difftalker import __version__
from difftalker.config import RENDERERS, ModelConfig, SamplingConfig
from difftalker.core.device import has_fast_bfloat16
from difftalker.core.jobs import Progress, no_progress
from difftalker.dubbing.footage import TrackedFootage, check_person, locate, tracked_before
from difftalker.dubbing.networks import Networks
from difftalker.dubbing.render_loop import CHUNK_FRAMES
from difftalker.errors import AvatarError, UsageError
from difftalker.face.detect.looks import LOOK_SIZE
from difftalker.face.detect.people import Choice, Likeness
from difftalker.face.detect.track import FaceTrack
from difftalker.landmarks.completer import PIECE_FRAMES, Completer, TransformerCompleter
from difftalker.landmarks.silence_hold import OPENS_S
from difftalker.speech.encoder import SpeechEncoder
from difftalker.speech.registry import load_encoder
from difftalker.speech.silence import SILENT_MARGIN_S
from difftalker.speech.speech import Speech, Times
from difftalker.speech.windows import SpokenWindows
from difftalker.store.calibration import UNMEASURED, Calibration
from difftalker.store.journal import key_of
from difftalker.synthesis.renderer import DiffusionRenderer, LightRenderer, Renderer


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What generates faces, and how."""

    renderer: str
    """One of ``config.RENDERERS``."""
    sampling: SamplingConfig
    """How the diffusion samples; the light network does not."""

    def options(self) -> dict[str, Any]:
        """The options of ``dub`` and ``talk`` that ask for it."""
        if self.renderer == "light":
            return {"renderer": "light"}
        return {"renderer": self.renderer, **asdict(self.sampling)}

    def facts(self) -> dict[str, str | int]:
        """Renderer, sampler and number of passes, as reports name them."""
        if self.renderer == "light":
            return {"renderer": "light", "sampler": "none", "steps": 1}
        return self.options()


class Engine:
    """What generates one person's face on one device.

    ``completer`` and what ``renderer`` gives can be replaced by others of their kind.
    """

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        networks: Networks,
        device: str = "cpu",
        facts: Mapping[str, Any] | None = None,
        calibration: Calibration = UNMEASURED,
    ) -> None:
        self.name, self.config, self.device = name, config, device
        self.facts, self.calibration = facts or {}, calibration
        self.networks = networks.to(device)
        if has_fast_bfloat16(device):
            self.networks.rounded()
        self.completer: Completer = TransformerCompleter(networks.completion, device)
        self._encoder: SpeechEncoder | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of everything that makes its pictures: weights, settings, and way to compute."""
        # Another number of threads adds up in another order, and rounds to other bits.
        ways = (torch.__version__, self.device, torch.get_num_threads(), CHUNK_FRAMES, PIECE_FRAMES)
        settings = {k: v for k, v in asdict(self.config).items() if k != "sampling"}
        settings["calibration"] = asdict(self.calibration)
        return key_of(__version__, *ways, settings, self._weights_hash)

    @cached_property
    def _weights_hash(self) -> str:
        weights = (
            (part, name, tensor.detach().float().cpu().numpy())
            for part, tensors in sorted(self.networks.state().items())
            for name, tensor in sorted(tensors.items())
        )
        return key_of(*itertools.chain.from_iterable(weights))

    @property
    def likeness(self) -> Likeness | None:
        """What the avatar's person looks like; None where that was not measured."""
        looks = np.array(self.calibration.looks, np.float32)
        if looks.shape[1:] != (LOOK_SIZE,):
            return None
        return Likeness(avatar=self.name, looks=looks)

    def locate(
        self,
        video: str | Path,
        face: Choice,
        any_face: bool = False,
        progress: Progress = no_progress,
        *,
        known: FaceTrack | None = None,
    ) -> TrackedFootage:
        """Track the chosen face in footage; it has to be that of the avatar's person.

        ``face`` chooses, by default this person. ``any_face`` takes somebody else, too. ``known``
        is what an earlier call found, and stands in place of tracking.

        Raises:
            MediaError: the footage cannot be read.
            FaceError: it shows no face, none of whom ``face`` means, or one that is not the
                avatar's.
        """
        size, mask = self.config.size_px, self.config.mask
        if known is None:
            footage = locate(Path(video), size, progress, face, mask=mask, likeness=self.likeness)
        else:
            footage = tracked_before(Path(video), known, size, mask)
        if not any_face:
            check_person(footage, self.name)
        return footage

    def rendering(
        self,
        renderer: str = "auto",
        *,
        sampler: str | None = None,
        steps: int | None = None,
        whole_faces: bool = False,
    ) -> Rendering:
        """The avatar's way to generate faces, with what is given in its place.

        ``auto`` is the diffusion where it is fast or asked for by ``sampler`` or ``steps``, or
        ``whole_faces`` are made, in which the light network shows its patches; and else the light
        network, if the avatar has one.

        Raises:
            UsageError: there is no such renderer or sampler, or they do not go together.
        """
        if renderer not in ("auto", *RENDERERS):
            wanted = " or ".join(("auto", *RENDERERS))
            raise UsageError(f"no renderer is called {renderer!r}", wanted=wanted)
        sampled = sampler is not None or steps is not None
        if renderer == "light" and sampled:
            raise UsageError(
                "sampler or steps together with the light renderer, which takes one pass",
                wanted="the one or the other",
            )
        if renderer == "light" and self.networks.light is None:
            raise UsageError(
                f"the avatar {self.name} has no light renderer",
                fix=f"use diffusion, or run `difftalker train --start {self.name} --stage light`",
            )
        if self.networks.diffusion is None and (renderer == "diffusion" or sampled):
            raise UsageError(
                f"the avatar {self.name} has no diffusion, which takes sampler and steps",
                fix="use light without them, or train it with --quality best",
            )
        own = self.config.sampling
        if renderer == "auto":
            whole = whole_faces and self.networks.diffusion is not None
            slow = sampled or whole or self._prefers_diffusion()
            renderer = "diffusion" if slow else "light"
        sampling = SamplingConfig(
            sampler=own.sampler if sampler is None else sampler,
            steps=own.steps if steps is None else steps,
        )
        return Rendering(renderer=renderer, sampling=sampling)

    def _prefers_diffusion(self) -> bool:
        if self.networks.diffusion is None or self.networks.light is None:
            return self.networks.light is None
        return torch.device(self.device).type != "cpu" or has_fast_bfloat16(self.device)

    def renderer(self, rendering: Rendering | None = None, seed: int = 0) -> Renderer:
        """What generates faces: as is best for the avatar and the device where nothing is given."""
        rendering = rendering or self.rendering()
        if rendering.renderer == "light" and self.networks.light:
            return LightRenderer(
                self.networks.light,
                self.config.size_px,
                calibration=self.calibration,
                key=key_of(self.fingerprint, "light"),
                device=self.device,
            )
        chosen = rendering.sampling
        return DiffusionRenderer(
            self.networks.autoencoder,
            self.networks.synthesis,
            self.config,
            chosen,
            calibration=self.calibration,
            seed=seed,
            key=key_of(self.fingerprint, repr(chosen), seed),
            device=self.device,
        )

    def speech(self, audio: str | Path) -> Speech:
        """The sound of a file, decoded.

        Raises:
            MediaError: the sound cannot be read, or has no length.
        """
        return Speech(audio, self._speech_encoder, window=self.config.completion.window)

    def windows(self, speech: Speech, times_s: Times) -> SpokenWindows | None:
        """The speech around frames at these times; None where it does not condition the renderer.

        Where the mouth is held, in silence, there are zeros, but where lips may open or close.
        """
        synthesis = self.config.synthesis
        if not synthesis.uses_audio:
            return None
        silent = np.zeros(len(times_s), bool)
        if synthesis.uses_landmarks and self.config.completion.hold_in_silence:
            silent = speech.silent(times_s, SILENT_MARGIN_S + OPENS_S)
        return SpokenWindows(speech.windows(times_s), times_s, silent)

    def _speech_encoder(self) -> SpeechEncoder:
        if self._encoder is None:
            config = self.config.completion
            encoder = load_encoder(config.features, device=self.device)
            if encoder.dim != config.feature_dim:
                raise AvatarError(
                    f"the avatar {self.name} uses features of {config.feature_dim} numbers",
                    wanted=f"{encoder.dim}, as {config.features} has",
                )
            self._encoder = encoder
        return self._encoder
