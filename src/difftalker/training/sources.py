"""What the stages of a run read: footage and networks.

Every network comes from one of three places: the artefact of the stage that trained it, the avatar
that the run began from, or a base model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from difftalker.config import Config
from difftalker.core.files import write_whole
from difftalker.core.weights import difference
from difftalker.data.dataset import ClipData, Dataset, load_people
from difftalker.data.latents import LatentSet, encode_clips, identity
from difftalker.dubbing.load_checked import load_networks
from difftalker.dubbing.networks import (
    Diffusion,
    Networks,
    build_autoencoder,
    build_light,
    build_prior,
)
from difftalker.errors import TrainingError
from difftalker.landmarks.completion import CompletionNet
from difftalker.landmarks.head_motion import HeadMotion
from difftalker.store import experts
from difftalker.store.avatars import MORE_PARTS, AvatarFiles
from difftalker.store.calibration import UNMEASURED, Calibration
from difftalker.store.experts import ExpertFiles
from difftalker.store.journal import key_of
from difftalker.synthesis.autoencoder import Autoencoder
from difftalker.synthesis.light import LightNet, with_patch
from difftalker.synthesis.net import SynthesisNet
from difftalker.synthesis.prior import Prior
from difftalker.synthesis.renderer import DiffusionRenderer, Renderer
from difftalker.training import artefacts
from difftalker.training.artefacts import Artefact, filled
from difftalker.training.bars import bar
from difftalker.training.cross_fit import align_sound
from difftalker.training.options import TrainOptions
from difftalker.training.other_people import by_person, moved

N = TypeVar("N", bound=nn.Module)


OF_DIFFUSION = ("autoencoder", "prior", "synthesis", "decoder")
"""Stages that an avatar with the light network alone does without."""


class Sources:
    """Footage and networks for the stages of one run."""

    def __init__(
        self, config: Config, options: TrainOptions, data: Dataset, start: AvatarFiles | None
    ) -> None:
        self.config, self.options, self.data, self.start = config, options, data, start
        self.device = options.device
        self._early: dict[str, Artefact] = {}

    # Where a stage is

    def folder(self, stage: str) -> Path:
        """Where a stage keeps its checkpoint, log, sheets and artefact."""
        return self.options.run / stage

    def steps(self, stage: str) -> int:
        """How many steps a stage is to take."""
        steps: int = getattr(self.config.training, stage).steps
        return steps

    def ready_made(self, stage: str) -> bool:
        """Whether a stage has nothing to train: its network is taken as it is."""
        if self.left_out(stage):
            return False
        if self.start and self.options.keep and stage not in self.options.stages:
            kept = ("checkpoint", "artefact")
            return not any((self.folder(stage) / one).exists() for one in kept)
        return bool(self.config.model.base_model) and stage in ("autoencoder", "prior")

    def left_out(self, stage: str) -> bool:
        """Whether the avatar is to do without what a stage leaves."""
        if stage in OF_DIFFUSION:
            return not self.config.training.diffusion
        without_steps = stage in MORE_PARTS and not self.steps(stage)
        # Alone it is not left out: without steps it stays that of many faces.
        return without_steps and (stage != "light" or self.config.training.diffusion)

    def finished(self, stage: str) -> bool:
        """Whether the networks of a stage can be read."""
        if self.ready_made(stage) or self.left_out(stage):
            return True
        facts = artefacts.load_facts(self.folder(stage) / "artefact")
        if facts is None:
            return False
        minutes: float = getattr(self.config.training, stage).minutes
        return facts.steps >= self.steps(stage) or 0 < 60 * minutes <= facts.seconds

    def artefact(self, stage: str) -> Artefact:
        """What a finished stage left.

        Raises:
            TrainingError: it is not finished, or its artefact is damaged.
        """
        if stage in self._early:
            return self._early[stage]
        if not self.finished(stage):
            raise TrainingError(
                f"stage {stage} is at step {self._step(stage)} of {self.steps(stage)}, and left no"
                " artefact",
                wanted="a finished stage",
                fix=f"run `difftalker train --stage {stage}` first",
            )
        return artefacts.load(self.folder(stage) / "artefact")

    def _step(self, stage: str) -> int:
        facts = self.folder(stage) / "checkpoint" / "facts.json"
        return int(json.loads(facts.read_text())["step"]) if facts.is_file() else 0

    @contextmanager
    def with_early(self, artefacts: dict[str, Artefact]) -> Iterator[None]:
        """Take these for what unfinished stages leave; the avatar does without the others."""
        self._early = artefacts
        try:
            yield
        finally:
            self._early = {}

    # Networks

    def networks(self) -> Networks:
        """All networks as trained so far.

        Raises:
            TrainingError: a stage has not been trained to its end.
        """
        diffusion = None
        if self.config.training.diffusion:
            diffusion = Diffusion(autoencoder=self.tuned_autoencoder(), synthesis=self.synthesis())
        return Networks(
            completion=self.completion(),
            diffusion=diffusion,
            motion=self.motion(),
            light=self.light(),
            live=self.live(),
        )

    def completion(self) -> CompletionNet:
        """The completion of the stage landmarks."""
        if self._is_brought("landmarks"):
            return self.brought("landmarks", CompletionNet)
        net = CompletionNet(self.config.model.completion).to(self.device)
        return filled(net, self.artefact("landmarks").weights["completion"])

    def motion(self) -> HeadMotion:
        """How the head moves in the footage that the landmarks were learned from."""
        if self.start and self._is_brought("landmarks"):
            return load_networks(self.start).motion
        return filled(HeadMotion(), self.artefact("landmarks").weights["motion"])

    def autoencoder(self) -> Autoencoder:
        """The trained autoencoder, its latents scaled to unit variance over the footage."""
        if self._is_brought("autoencoder"):
            return self.brought("autoencoder", Autoencoder)
        net = self.placed(build_autoencoder(self.config.model))
        if self.ready_made("autoencoder"):
            return net.eval()
        return filled(net, self.artefact("autoencoder").weights["autoencoder"])

    def prior(self) -> Prior:
        """The trained prior."""
        if self._is_brought("prior"):
            return self.brought("prior", Prior)
        net = self.placed(build_prior(self.config.model))
        if self.ready_made("prior"):
            return net
        return filled(net, self.artefact("prior").weights["prior"])

    def synthesis(self) -> SynthesisNet:
        """The trained synthesis, its prior in it."""
        if self._is_brought("synthesis"):
            return self.brought("synthesis", SynthesisNet)
        left = self.artefact("synthesis").weights["synthesis"]
        net = self.new_synthesis(self.prior())
        frozen = {} if net.config.tune_prior else net.prior.state_dict(prefix="prior.")
        return filled(net, {**frozen, **left})

    def new_synthesis(self, prior: Prior) -> SynthesisNet:
        """A synthesis over a prior, untrained, as the run's seed has it."""
        torch.manual_seed(self.options.seed)
        model = self.config.model
        return SynthesisNet(model.synthesis, prior, model.completion).to(self.device)

    def tuned_autoencoder(self) -> Autoencoder:
        """The autoencoder with the decoder of the last stage."""
        if self._is_brought("decoder"):
            return self.brought("decoder", Autoencoder)
        left = self.artefact("decoder").weights["autoencoder"]
        return filled(self.placed(build_autoencoder(self.config.model)), left)

    def light(self) -> LightNet | None:
        """The trained light network; None where its stage has no steps."""
        if self._is_brought("light"):
            return self.known("light", LightNet)
        if self.left_out("light"):
            return None
        return filled(self.new_light(), self.artefact("light").weights["light"])

    def live(self) -> CompletionNet | None:
        """The trained completion of live sessions; None where its stage has no steps."""
        if self._is_brought("live"):
            return self.known("live", CompletionNet)
        if self.left_out("live") or (self._early and not self.finished("live")):
            return None
        return filled(self.new_live(), self.artefact("live").weights["live"])

    def known(self, part: str, kind: type[N]) -> N | None:
        """A part that an avatar may lack, of the one that the run began from."""
        net = getattr(load_networks(self.start), part) if self.start else None
        assert net is None or isinstance(net, kind)
        return net

    def begun_where_known(self, part: str, net: N) -> N:
        """A new network, with the weights of such a part, if there is one of its size."""
        known: Any = self.known(part, type(net))
        if known is not None and known.config == net.config:
            net.load_state_dict(known.state_dict())
        return net

    def begun_light(self) -> LightNet:
        """A light network with the weights of the avatar asked for; by default of many faces."""
        net = self.new_light()
        if self.faces is None:
            return self.begun_where_known("light", net)
        weights = {k: v.float() for k, v in self.faces.weights().items()}
        patches = int(self.faces.config["patch"]), self.config.model.light.patch
        net.load_state_dict(with_patch(weights, *patches) if len(set(patches)) > 1 else weights)
        return net

    @cached_property
    def faces(self) -> ExpertFiles | None:
        """The network of many faces, where the light one begins there."""
        if self.start is None or "faces" not in experts.packaged():
            return None
        known = self.known("light", LightNet) if self.options.keep else None
        if known is not None and known.config == self.config.model.light:
            return None
        files = experts.read(kind="faces")
        model = self.config.model
        same = replace(model.light, patch=files.config["patch"])
        with torch.device("meta"):
            wanted = LightNet(same, model.synthesis, model.completion).state_dict()
        other = difference(files.shapes(), {k: tuple(v.shape) for k, v in wanted.items()})
        return None if other else files

    def new_light(self) -> LightNet:
        """A light network, untrained, as the run's seed has it."""
        torch.manual_seed(self.options.seed)
        return self.placed(build_light(self.config.model))

    def new_live(self) -> CompletionNet:
        """A completion of live sessions, untrained, as the run's seed has it."""
        torch.manual_seed(self.options.seed)
        return CompletionNet(self.config.model.live).to(self.device)

    def calibration(self) -> Calibration:
        """What was measured with the trained decoder and the light network, or was known before."""
        measured = self._decoder_calibration()
        light = UNMEASURED
        if self.ready_made("light"):
            light = self.known_calibration()
        elif not self.left_out("light"):
            light = self.artefact("light").calibration
        return replace(
            measured, light_detail=light.light_detail, light_openings=light.light_openings
        )

    def _decoder_calibration(self) -> Calibration:
        if self.left_out("decoder"):
            return UNMEASURED
        if self.ready_made("decoder"):
            return self.known_calibration()
        return self.artefact("decoder").calibration

    def renderer(self) -> Renderer:
        """The trained diffusion, as an avatar has it."""
        autoencoder, synthesis = self.tuned_autoencoder(), self.synthesis()
        model, calibration = self.config.model, self._decoder_calibration()
        weights = identity([autoencoder, synthesis], (), 1)["weights"]
        return DiffusionRenderer(
            self.placed(autoencoder),
            self.placed(synthesis),
            model,
            model.sampling,
            calibration=calibration,
            key=key_of(weights, repr(model.sampling), repr(calibration)),
            device=self.device,
        )

    def known_calibration(self) -> Calibration:
        """That of the avatar that the run began from."""
        return self.start.calibration if self.start else UNMEASURED

    def brought(self, stage: str, kind: type[N]) -> N:
        """The network of a stage as it is in the avatar that the run began from."""
        assert self.start is not None
        parts = {
            "landmarks": "completion",
            "autoencoder": "autoencoder",
            "prior": "synthesis.prior",
            "synthesis": "synthesis",
            "decoder": "autoencoder",
        }
        net = self.placed(attrgetter(parts[stage])(load_networks(self.start))).eval()
        assert isinstance(net, kind)
        return net

    def begun(self, stage: str, net: N) -> N:
        """A new network, with the weights of the avatar that the run began from."""
        if self.start:
            net.load_state_dict(self.brought(stage, type(net)).state_dict())
        return net

    def placed(self, net: N) -> N:
        """A network on the device, in the layout that its convolutions are fast in."""
        return net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def _is_brought(self, stage: str) -> bool:
        return self.start is not None and self.ready_made(stage)

    # Footage

    def aligned(self) -> Dataset:
        """The data, each clip's sound aligned with its lips; the delays are found once a run."""
        self._align([*self.data.train, *self.data.validation])
        return self.data

    def _align(self, clips: Sequence[ClipData]) -> None:
        """Set how late the sound of one person's clips is, as found before or now."""
        if not self.config.training.align_sound:
            return
        known = self.delays_s()
        if any(clip.name not in known for clip in clips):
            align_sound(self.config.model.completion, clips)
            known |= {clip.name: clip.delay_s for clip in clips}
            path = self.options.run / "delays.json"
            write_whole(path, json.dumps(known, indent=1) + "\n")
        for clip in clips:
            clip.delay_s = known[clip.name]

    def spoken(self) -> Dataset:
        """What the completion learns: the aligned data, and other people's, moved to this face."""
        data = self.aligned()
        others = [clip for one in self.people.values() for clip in moved(one, data.train)]
        return replace(data, train=[*data.train, *others])

    @cached_property
    def people(self) -> dict[str, list[ClipData]]:
        """The clips of each of the other people, their sound aligned."""
        if self.options.people is None:
            return {}
        people = by_person(load_people(self.options.people, mask=self.config.model.mask).train)
        for clips in people.values():
            self._align(clips)
        return people

    def guiding(self) -> Dataset:
        """The data, its sound aligned where the synthesis uses audio."""
        return self.aligned() if self.config.model.synthesis.uses_audio else self.data

    def delays_s(self) -> dict[str, float]:
        """How much later than its picture each clip's sound was found to be, by names."""
        path = self.options.run / "delays.json"
        if not self.config.training.align_sound or not path.is_file():
            return {}
        found: dict[str, float] = json.loads(path.read_text())
        return found

    def latents(self, autoencoder: Autoencoder) -> LatentSet:
        """Latents of the clips to learn from, kept in the run's folder."""
        with bar("latents") as progress:
            return encode_clips(
                autoencoder,
                self.data.train,
                self.options.run / "latents",
                stride=self.config.training.latent_stride,
                device=self.device,
                autocast=self.config.training.autocast,
                progress=progress,
            )
