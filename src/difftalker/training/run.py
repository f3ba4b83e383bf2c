"""`difftalker train`: the stages one after the other, and the avatar at their end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from difftalker.config import STAGES, Config, ModelConfig, from_dict
from difftalker.core.files import write_whole
from difftalker.data.dataset import Dataset, load_dataset
from difftalker.data.latents import LatentSet, Progress, encode_clips
from difftalker.dubbing.load_checked import restore
from difftalker.dubbing.networks import Networks, build_autoencoder, build_prior
from difftalker.errors import TrainingError, UsageError
from difftalker.landmarks.completion import CompletionNet
from difftalker.landmarks.head_motion import HeadMotion
from difftalker.store import avatars as avatar
from difftalker.store.calibration import UNMEASURED, Calibration
from difftalker.synthesis.autoencoder import Autoencoder
from difftalker.synthesis.net import SynthesisNet
from difftalker.synthesis.prior import Prior
from difftalker.training.cross_fit import bring_in_step
from difftalker.training.decoder_task import DecoderTask
from difftalker.training.init_from import open_start, remember_start
from difftalker.training.tasks import AutoencoderTask, LandmarkTask, PriorTask, SynthesisTask
from difftalker.training.trainer import Log, Task, Trainer

N = TypeVar("N", bound=nn.Module)
TOLD_S = 0.04
"""An offset of sound and picture that a card counts: a frame of most footage."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What one run of training is told."""

    dataset: Path
    """A folder made by `difftalker prepare`."""
    run: Path
    """Where checkpoints, logs and sheets go; a run that was stopped goes on from here."""
    stages: tuple[str, ...] = STAGES
    start: str = ""
    """An avatar, by name or folder, whose networks the stages begin from."""
    keep: bool = True
    """Whether stages that are not chosen stay as they are in that avatar; else they are yet to be
    trained."""
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    """Number of CPU threads; 0: all."""


class Run:
    """One training run: builds each stage's task when its turn comes."""

    def __init__(self, config: Config, options: TrainOptions) -> None:
        _check_stages(options.stages)
        self._start = open_start(options.start, config.model) if options.start else None
        self.config, self.options = config, options
        self._check_synthesis()
        _remember_config(config, options)
        remember_start(options.run, options.start)
        self.data: Dataset = load_dataset(
            options.dataset,
            validation_clips=config.training.validation_clips,
            mask=config.model.mask,
        )
        if self.data.size_px != config.model.size_px:
            raise UsageError(
                f"the dataset's crops are {self.data.size_px} pixels wide",
                wanted=f"{config.model.size_px} for preset {config.model.preset}",
                fix=f"run `difftalker prepare` with --size {config.model.size_px}",
            )

    def train(self) -> dict[str, Log]:
        """Run the chosen stages; returns each one's last validation."""
        if self.options.threads:
            torch.set_num_threads(self.options.threads)
        numbers = {}
        for stage in STAGES:
            steps: int = getattr(self.config.training, stage).steps
            if steps and stage in self.options.stages and not self._ready_made(stage):
                numbers[stage] = self.trainer(stage).run()
        return numbers

    def trainer(self, stage: str) -> Trainer:
        """The trainer of one stage, at the step where it was left."""
        torch.manual_seed(self.options.seed)
        tasks: dict[str, Callable[[], Task]] = {
            "landmarks": self._landmarks,
            "autoencoder": self._autoencoder,
            "prior": self._prior,
            "synthesis": self._synthesis,
            "decoder": self._decoder,
        }
        task, config = tasks[stage](), getattr(self.config.training, stage)
        return Trainer(
            task,
            config,
            self.options.run / stage,
            seed=self.options.seed,
            autocast=self.config.training.autocast and config.autocast,
            device=self.options.device,
        )

    def networks(self) -> Networks:
        """All networks as trained so far.

        Raises:
            TrainingError: a stage has not been trained to its end.
        """
        synthesis = self._finished("synthesis")
        completion = self._finished("landmarks")
        autoencoder = self._finished("decoder")
        return Networks(
            completion=completion,
            motion=self._motion(),
            autoencoder=autoencoder,
            synthesis=synthesis,
        )

    def calibration(self) -> Calibration:
        """What the trained decoder's pictures lack; that of the avatar to start from without one.

        Raises:
            TrainingError: a stage has not been trained to its end.
        """
        known = self._start.calibration if self._start else UNMEASURED
        if self._ready_made("decoder") or not self.config.training.decoder.steps:
            return known if self.options.keep else UNMEASURED
        self._finished("decoder")
        task = self.trainer("decoder").task
        assert isinstance(task, DecoderTask)
        detail = task.detail()
        return Calibration(detail=detail, openings=task.openings(detail) or known.openings)

    def _check_synthesis(self) -> None:
        """Refuse to keep a synthesis that is guided by something else than is wanted."""
        wanted = self.config.model.synthesis.guidance
        if self._start and self._ready_made("synthesis"):
            found = self._start.config.synthesis.guidance
            if found != wanted:
                raise UsageError(
                    f"the synthesis of {self._start.name} is guided by {found}, not by {wanted}",
                    fix="train the stage synthesis as well",
                )

    def kept(self) -> dict[str, Any]:
        """What is known of the stages that stay as they are in the avatar that the run began at."""
        known = self._start.facts.get("stages", {}) if self._start else {}
        return {stage: facts for stage, facts in known.items() if self._ready_made(stage)}

    def trained_on(self) -> dict[str, Any]:
        """What is known of the stages of an avatar that this run trains on; of others nothing."""
        return self._start.facts.get("stages", {}) if self._start and self.options.keep else {}

    def ancestors(self) -> list[dict[str, str]]:
        """The avatars whose weights are in this one, nearest first: ``name`` and ``source``."""
        if self._start is None:
            return []
        facts = self._start.facts
        own = {"name": self._start.name, "source": str(facts.get("source", "unknown"))}
        return [own, *(one for one in facts.get("begun_at", []) if one != own)]

    def unfinished(self) -> list[str]:
        """Stages that have yet to be trained, in order."""
        return [s for s in STAGES if not self._ready_made(s) and not self._at_its_end(s)]

    def _ready_made(self, stage: str) -> bool:
        """Whether a stage has nothing to train: its network is taken as it is."""
        if self._start and self.options.keep and stage not in self.options.stages:
            return not (self.options.run / stage / "checkpoint").exists()
        return bool(self.config.model.base_model) and stage in ("autoencoder", "prior")

    def _at_its_end(self, stage: str) -> bool:
        facts = self.options.run / stage / "checkpoint" / "facts.json"
        done = int(json.loads(facts.read_text())["step"]) if facts.is_file() else 0
        wanted: int = getattr(self.config.training, stage).steps
        return done >= wanted

    def _finished(self, stage: str) -> Any:
        if self._start and self._ready_made(stage):
            return self._brought(stage)
        if stage == "decoder" and not self.config.training.decoder.steps:
            return self._scaled_autoencoder()
        trainer = self.trainer(stage)
        if trainer.step < trainer.config.steps:
            raise TrainingError(
                f"stage {stage} is at step {trainer.step} of {trainer.config.steps}",
                wanted="a finished stage",
                fix=f"run `difftalker train --stage {stage}` first",
            )
        model: Any = trainer.task.model.eval()
        return model.autoencoder if stage == "decoder" else model

    def _brought(self, stage: str) -> Any:
        """The network of a stage as it is in the avatar to start from."""
        assert self._start is not None
        networks = restore(self._start)
        parts = {
            "landmarks": networks.completion,
            "autoencoder": networks.autoencoder,
            "prior": networks.synthesis.prior,
            "synthesis": networks.synthesis,
            "decoder": networks.autoencoder,
        }
        return self._placed(parts[stage]).eval()

    def _begun(self, stage: str, net: N) -> N:
        """A new network, with the weights of the avatar to start from."""
        if self._start:
            net.load_state_dict(self._brought(stage).state_dict())
        return net

    def _motion(self) -> HeadMotion:
        """How the head moves: fitted to the footage that the landmarks were learned from."""
        if self._start and self._ready_made("landmarks"):
            return restore(self._start).motion
        motion = HeadMotion()
        motion.fit([span for clip in self.data.train for span in clip.movement()])
        return motion

    def _in_step(self) -> Dataset:
        """The data, the sound of its clips in step with their lips; found once a run."""
        clips = [*self.data.train, *self.data.validation]
        path = self.options.run / "delays.json"
        if self.config.training.in_step and not path.is_file():
            bring_in_step(self.config.model.completion, clips)
            write_whole(path, json.dumps({c.name: c.delay_s for c in clips}, indent=1) + "\n")
        delays_s = self.delays_s()
        for clip in clips:
            clip.delay_s = delays_s.get(clip.name, 0.0)
        return self.data

    def _guiding(self) -> Dataset:
        """The data, in step where the synthesis hears it."""
        return self._in_step() if self.config.model.synthesis.uses_audio else self.data

    def delays_s(self) -> dict[str, float]:
        """How much later than its picture each clip's sound was found to be, by names."""
        path = self.options.run / "delays.json"
        if not self.config.training.in_step or not path.is_file():
            return {}
        found: dict[str, float] = json.loads(path.read_text())
        return found

    def _landmarks(self) -> LandmarkTask:
        net = CompletionNet(self.config.model.completion).to(self.options.device)
        net = self._begun("landmarks", net)
        training = self.config.training
        return LandmarkTask(
            net,
            self._in_step(),
            span=training.span_frames,
            lips_weight=training.lips_weight,
            recipe=training.landmark_recipe,
            device=self.options.device,
        )

    def _autoencoder(self) -> AutoencoderTask:
        return AutoencoderTask(
            self._begun("autoencoder", self._placed(build_autoencoder(self.config.model))),
            self.data,
            recipe=self.config.training.autoencoder_recipe,
            device=self.options.device,
        )

    def _prior(self) -> PriorTask:
        autoencoder = self._scaled_autoencoder()
        prior = self._begun("prior", self._placed(build_prior(self.config.model)))
        return PriorTask(
            prior,
            autoencoder,
            self.data,
            self._latents(autoencoder),
            recipe=self.config.training.prior_recipe,
            device=self.options.device,
        )

    def _synthesis(self) -> SynthesisTask:
        autoencoder, prior = self._scaled_autoencoder(), self._trained_prior()
        torch.manual_seed(self.options.seed)
        model = self.config.model
        net = SynthesisNet(model.synthesis, prior, model.completion).to(self.options.device)
        if self._start:
            brought = self._brought("synthesis")
            net.load_state_dict(brought.state_dict(), strict=net.config == brought.config)
            net.prior.load_state_dict(prior.state_dict())
        if torch.device(self.options.device).type == "cpu":
            # Backwards through frozen channels-last convolutions torch 2.13 crashes.
            net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return SynthesisTask(
            net,
            autoencoder,
            self._guiding(),
            self._latents(autoencoder),
            speech=model.completion,
            sampling=model.sampling,
            mouth_weight=self.config.training.mouth_weight,
            completed_share=self.config.training.completed_share,
            recipe=self.config.training.synthesis_recipe,
            device=self.options.device,
        )

    def _decoder(self) -> DecoderTask:
        autoencoder, model = self._scaled_autoencoder(), self.config.model
        maker = SynthesisTask(
            self._finished("synthesis"),
            autoencoder,
            self._guiding(),
            LatentSet.empty(autoencoder.latent_channels),
            speech=model.completion,
            device=self.options.device,
        )
        recipe = self.config.training.decoder_recipe
        recipe = self.config.training.decoder_recipe
        with _bar("latents") as progress:
            return DecoderTask(
                autoencoder,
                maker,
                self.data,
                model.sampling,
                self.options.run / "made-latents",
                recipe=recipe,
                stride=recipe.stride * self.config.training.latent_stride,
                autocast=self.config.training.autocast,
                progress=progress,
                device=self.options.device,
            )

    def _trained_prior(self) -> Prior:
        if self._ready_made("prior") and not self._start:
            return self._placed(build_prior(self.config.model))
        prior: Prior = self._finished("prior")
        return prior

    def _scaled_autoencoder(self) -> Autoencoder:
        """The trained autoencoder, its latents scaled to unit variance over the footage."""
        if self._ready_made("autoencoder"):
            if self._start:
                brought: Autoencoder = self._finished("autoencoder")
                return brought
            return self._placed(build_autoencoder(self.config.model)).eval()
        net: Autoencoder = self._finished("autoencoder")
        if self._start:  # the scale that the networks after it know
            return net
        clips = self.data.train[:: max(1, len(self.data.train) // 16)]
        frames = torch.cat([torch.tensor(c.frames[:: max(1, len(c) // 4)]) for c in clips])
        net.measure_scale(frames.to(self.options.device))
        return net

    def _latents(self, autoencoder: Autoencoder) -> LatentSet:
        with _bar("latents") as progress:
            return encode_clips(
                autoencoder,
                self.data.train,
                self.options.run / "latents",
                stride=self.config.training.latent_stride,
                device=self.options.device,
                autocast=self.config.training.autocast,
                progress=progress,
            )

    def _placed(self, net: N) -> N:
        return net.to(self.options.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """A bar for so many frames out of so many."""
    with tqdm(desc=name, unit="frame") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def save_avatar(
    run: Run, folder: Path, *, name: str, consent: str, source: str, command: str
) -> None:
    """Package a finished run: configuration, fp16 weights and card.

    Raises:
        TrainingError: a stage is not finished.
    """
    networks = run.networks()
    facts = _facts(run)
    avatar.write(
        folder,
        name=name,
        config=networks.resolved(run.config.model),
        architecture=networks.architecture(),
        weights=networks.state(),
        calibration=run.calibration(),
        facts={"consent": consent, "source": source, "command": command, **facts},
        card=card(name, consent, source, command, facts),
    )


def card(name: str, consent: str, source: str, command: str, facts: dict[str, Any]) -> str:
    """The avatar's card, Markdown: who, which footage, consent, licence, measured quality."""
    begun = facts["begun_at"]
    rows = [
        f"| {stage} | {f['steps']} | {f['minutes']:.0f} | {f['validation']} |"
        for stage, f in facts["stages"].items()
    ]
    return "\n".join(
        [
            f"# Avatar {name}",
            "",
            f"- Footage: {source}",
            f"- Consent: {consent}",
            f"- Trained by: `{command}`, seed {facts['seed']}, on {facts['date']}",
            f"- Clips: {facts['clips_train']} to learn from, {facts['clips_validation']} held out"
            f" ({', '.join(facts['validation_names'])})",
            *([f"- Sound: {facts['sound']}"] if facts["sound"] else []),
            *(f"- Begun at: the avatar {a['name']}, whose footage is {a['source']}" for a in begun),
            "- Videos made with this avatar are generated; say so where you show them.",
            "",
            "| stage | steps | minutes | held-out numbers at the end |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _sound(delays_s: Mapping[str, float]) -> str:
    """What a card says of sound that is early or late; empty where that was not looked at."""
    apart_s = np.abs(list(delays_s.values()))
    if not len(apart_s):
        return ""
    return (
        f"brought in step with the lips; {(apart_s >= TOLD_S).sum()} of {len(apart_s)} clips were"
        f" {TOLD_S:.2f} s or more apart, {apart_s.max():.2f} s at most"
    )


def _facts(run: Run) -> dict[str, Any]:
    """What an avatar's card says; where an avatar is trained on, its steps and minutes add up."""
    stages, before = run.kept(), run.trained_on()
    for stage in STAGES:
        record = run.options.run / stage / "checkpoint" / "facts.json"
        if record.is_file():
            raw = json.loads(record.read_text())
            numbers = ", ".join(f"{k} {v:.4g}" for k, v in raw["validation"].items())
            earlier = before.get(stage, {"steps": 0, "minutes": 0.0})
            stages[stage] = {
                "steps": earlier["steps"] + raw["step"],
                "minutes": earlier["minutes"] + raw["seconds"] / 60,
                "validation": numbers,
            }
    return {
        "stages": stages,
        "seed": run.options.seed,
        "date": date.today().isoformat(),
        "begun_at": run.ancestors(),
        "sound": _sound(run.delays_s()),
        "clips_train": len(run.data.train),
        "clips_validation": len(run.data.validation),
        "validation_names": [c.name for c in run.data.validation],
    }


def _check_stages(stages: Sequence[str]) -> None:
    for stage in stages:
        if stage not in STAGES:
            raise UsageError(f"no stage is called {stage!r}", wanted=" or ".join(STAGES))


def _remember_config(config: Config, options: TrainOptions) -> None:
    """Write the run's configuration, or check that it is the one the run was begun with."""
    path = options.run / "config.json"
    if path.is_file() and _begun_with(path) != config.model:
        raise TrainingError(
            f"the run in {options.run} was begun with another model configuration",
            wanted=f"that of {path}",
            fix="use it, or another --run folder",
        )
    options.run.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(asdict(config), indent=1) + "\n")


def _begun_with(path: Path) -> ModelConfig:
    """The model configuration of an earlier call; settings that it did not know are at default."""
    return from_dict(ModelConfig, json.loads(path.read_text())["model"], str(path))
