"""The stages of training, one after the other: what each needs, learns and leaves.

A stage is added in two places: to ``TABLE``, and its settings to ``TrainingConfig``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from difftalker.data.latents import LatentSet
from difftalker.dubbing.networks import build_autoencoder, build_prior
from difftalker.landmarks.completion import CompletionNet
from difftalker.landmarks.head_motion import HeadMotion
from difftalker.store.calibration import UNMEASURED, Calibration
from difftalker.training.artefacts import Artefact
from difftalker.training.decoder_task import DecoderTask
from difftalker.training.light_task import LightTask
from difftalker.training.sources import Sources
from difftalker.training.task import Task
from difftalker.training.tasks import AutoencoderTask, LandmarkTask, PriorTask, SynthesisTask

SCALE_CLIPS, SCALE_FRAMES = 16, 4
"""From how many clips, and frames of each, the scale of latents is measured."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training."""

    name: str
    """Its settings are ``training.NAME``, its folder is RUN/NAME."""
    needs: tuple[str, ...]
    """Stages whose artefacts it reads."""
    task: Callable[[Sources], Task]
    """Builds what is to be trained; trains nothing."""
    artefact: Callable[[Any, Sources], Artefact]
    """What the task leaves once it is trained, in evaluation mode."""


def _landmarks(sources: Sources) -> LandmarkTask:
    net = CompletionNet(sources.config.model.completion).to(sources.device)
    training = sources.config.training
    return LandmarkTask(
        sources.begun("landmarks", net),
        sources.spoken(),
        span=training.span_frames,
        lips_weight=training.lips_weight,
        recipe=training.landmark_recipe,
        device=sources.device,
    )


def _landmarks_artefact(task: LandmarkTask, sources: Sources) -> Artefact:
    motion = HeadMotion()
    motion.fit([span for clip in sources.data.train for span in clip.movement()])
    return Artefact(weights={"completion": task.model.state_dict(), "motion": motion.state_dict()})


def _autoencoder(sources: Sources) -> AutoencoderTask:
    net = sources.placed(build_autoencoder(sources.config.model))
    return AutoencoderTask(
        sources.begun("autoencoder", net),
        sources.data,
        recipe=sources.config.training.autoencoder_recipe,
        device=sources.device,
    )


def _autoencoder_artefact(task: AutoencoderTask, sources: Sources) -> Artefact:
    if not sources.start:  # else the scale is the one that the networks after it know
        clips = sources.data.train
        frames = torch.cat(
            [
                torch.tensor(clip.frames[:: max(1, len(clip) // SCALE_FRAMES)])
                for clip in clips[:: max(1, len(clips) // SCALE_CLIPS)]
            ]
        )
        task.model.measure_scale(frames.to(sources.device))
    return Artefact(weights={"autoencoder": task.model.state_dict()})


def _prior(sources: Sources) -> PriorTask:
    autoencoder = sources.autoencoder()
    prior = sources.begun("prior", sources.placed(build_prior(sources.config.model)))
    latents = sources.latents(autoencoder)
    return PriorTask(
        prior,
        autoencoder,
        sources.data,
        latents,
        recipe=sources.config.training.prior_recipe,
        device=sources.device,
    )


def _prior_artefact(task: PriorTask, sources: Sources) -> Artefact:
    return Artefact(weights={"prior": task.model.state_dict()})


def _synthesis(sources: Sources) -> SynthesisTask:
    autoencoder, prior = sources.autoencoder(), sources.prior()
    net = sources.new_synthesis(prior)
    if sources.start:
        brought = sources.brought("synthesis", type(net))
        net.load_state_dict(brought.state_dict(), strict=net.config == brought.config)
        net.prior.load_state_dict(prior.state_dict())
    model, training = sources.config.model, sources.config.training
    return SynthesisTask(
        _trainable(net, sources.device),
        autoencoder,
        sources.guiding(),
        sources.latents(autoencoder),
        speech=model.completion,
        sampling=model.sampling,
        mouth_weight=training.mouth_weight,
        completed_share=training.completed_share,
        recipe=training.synthesis_recipe,
        device=sources.device,
    )


def _synthesis_artefact(task: SynthesisTask, sources: Sources) -> Artefact:
    """All but a frozen prior, which has its own artefact."""
    tuned = task.model.config.tune_prior
    left = {
        name: tensor
        for name, tensor in task.model.state_dict().items()
        if tuned or not name.startswith("prior.")
    }
    return Artefact(weights={"synthesis": left})


def _decoder(sources: Sources) -> DecoderTask:
    autoencoder, model = sources.autoencoder(), sources.config.model
    synthesis = sources.synthesis()
    maker = SynthesisTask(
        synthesis if sources.ready_made("synthesis") else _trainable(synthesis, sources.device),
        autoencoder,
        sources.guiding(),
        LatentSet.empty(autoencoder.latent_channels),
        speech=model.completion,
        device=sources.device,
    )
    training = sources.config.training
    return DecoderTask(
        autoencoder,
        maker,
        sources.data,
        model.sampling,
        sources.options.run / "made-latents",
        recipe=training.decoder_recipe,
        stride=training.decoder_recipe.stride * training.latent_stride,
        autocast=training.autocast,
        device=sources.device,
    )


def _decoder_artefact(task: DecoderTask, sources: Sources) -> Artefact:
    tuned: Any = task.model["autoencoder"]
    weights = {"autoencoder": tuned.state_dict()}
    known = sources.known_calibration()
    if not sources.steps("decoder"):  # the autoencoder's own decoder: nothing is measured with it
        return Artefact(weights=weights, calibration=known if sources.options.keep else UNMEASURED)
    detail = task.detail()
    openings = task.openings(detail) or known.openings
    return Artefact(weights=weights, calibration=Calibration(detail=detail, openings=openings))


def _light(sources: Sources) -> LightTask:
    model, training = sources.config.model, sources.config.training
    return LightTask(
        sources.begun_light(),
        sources.renderer() if training.diffusion else None,
        sources.guiding(),
        sources.options.run / "taught-pictures",
        stride=training.latent_stride,
        synthesis=model.synthesis,
        speech=model.completion,
        conditions=training.synthesis_recipe,
        completed_share=training.completed_share,
        recipe=training.light_recipe,
        device=sources.device,
    )


def _light_artefact(task: LightTask, sources: Sources) -> Artefact:
    net: Any = task.model["light"]
    return Artefact(weights={"light": net.state_dict()}, calibration=task.calibration())


def _live(sources: Sources) -> LandmarkTask:
    training = sources.config.training
    return LandmarkTask(
        sources.begun_where_known("live", sources.new_live()),
        sources.spoken(),
        span=training.span_frames,
        lips_weight=training.lips_weight,
        recipe=training.landmark_recipe,
        device=sources.device,
        name="live",
    )


def _live_artefact(task: LandmarkTask, sources: Sources) -> Artefact:
    return Artefact(weights={"live": task.model.state_dict()})


def _trainable(net: Any, device: str) -> Any:
    if torch.device(device).type == "cpu":
        # Backwards through frozen channels-last convolutions torch 2.13 crashes.
        net.to(memory_format=torch.contiguous_format)
    return net


TABLE: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(name="landmarks", needs=(), task=_landmarks, artefact=_landmarks_artefact),
        Stage(name="autoencoder", needs=(), task=_autoencoder, artefact=_autoencoder_artefact),
        Stage(name="prior", needs=("autoencoder",), task=_prior, artefact=_prior_artefact),
        Stage(
            name="synthesis",
            needs=("autoencoder", "prior"),
            task=_synthesis,
            artefact=_synthesis_artefact,
        ),
        Stage(
            name="decoder",
            needs=("autoencoder", "prior", "synthesis"),
            task=_decoder,
            artefact=_decoder_artefact,
        ),
        Stage(
            name="light",
            needs=("autoencoder", "prior", "synthesis", "decoder"),
            task=_light,
            artefact=_light_artefact,
        ),
        Stage(name="live", needs=(), task=_live, artefact=_live_artefact),
    )
}
"""By name, in the order of training: that of the fields of ``TrainingConfig``."""
