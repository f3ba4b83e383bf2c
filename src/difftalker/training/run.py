"""`difftalker train`: the stages one after the other, and the avatar at their end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from tqdm import tqdm

from difftalker import avatar
from difftalker.config import STAGES, Config, ModelConfig, from_dict
from difftalker.data.dataset import Dataset, load_dataset
from difftalker.data.latents import LatentSet, encode_clips
from difftalker.errors import TrainingError, UsageError
from difftalker.files import write_whole
from difftalker.models.autoencoder import Autoencoder
from difftalker.models.completion import CompletionNet
from difftalker.models.networks import Networks, build_autoencoder, build_prior
from difftalker.models.synthesis import Prior, SynthesisNet
from difftalker.training.tasks import AutoencoderTask, LandmarkTask, PriorTask, SynthesisTask
from difftalker.training.trainer import Log, Task, Trainer

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What one run of training is told."""

    dataset: Path
    """A folder made by `difftalker prepare`."""
    run: Path
    """Where checkpoints, logs and sheets go; a run that was stopped goes on from here."""
    stages: tuple[str, ...] = STAGES
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    """Of the CPU; 0: all."""


class Run:
    """One training run: builds each stage's task when its turn comes."""

    def __init__(self, config: Config, options: TrainOptions) -> None:
        self.config, self.options = config, options
        _check_stages(options.stages)
        _remember_config(config, options)
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
            if stage in self.options.stages and not self._ready_made(stage):
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
        return Networks(
            completion=completion, autoencoder=self._scaled_autoencoder(), synthesis=synthesis
        )

    def _ready_made(self, stage: str) -> bool:
        """Whether a stage has nothing to train: its network is taken as it is."""
        return bool(self.config.model.base_model) and stage in ("autoencoder", "prior")

    def _finished(self, stage: str) -> Any:
        trainer = self.trainer(stage)
        if trainer.step < trainer.config.steps:
            raise TrainingError(
                f"stage {stage} is at step {trainer.step} of {trainer.config.steps}",
                wanted="a finished stage",
                fix=f"run `difftalker train --stage {stage}` first",
            )
        return trainer.task.model.eval()

    def _landmarks(self) -> LandmarkTask:
        net = CompletionNet(self.config.model.completion).to(self.options.device)
        return LandmarkTask(
            net, self.data, span=self.config.training.span_frames, device=self.options.device
        )

    def _autoencoder(self) -> AutoencoderTask:
        return AutoencoderTask(
            self._placed(build_autoencoder(self.config.model)),
            self.data,
            device=self.options.device,
        )

    def _prior(self) -> PriorTask:
        autoencoder = self._scaled_autoencoder()
        prior = self._placed(build_prior(self.config.model))
        return PriorTask(
            prior, autoencoder, self.data, self._latents(autoencoder), device=self.options.device
        )

    def _synthesis(self) -> SynthesisTask:
        autoencoder, prior = self._scaled_autoencoder(), self._trained_prior()
        torch.manual_seed(self.options.seed)
        model = self.config.model
        net = SynthesisNet(model.synthesis, prior, model.completion).to(self.options.device)
        # Backwards through frozen channels-last convolutions torch 2.13 crashes.
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return SynthesisTask(
            net,
            autoencoder,
            self.data,
            self._latents(autoencoder),
            speech=model.completion,
            device=self.options.device,
        )

    def _trained_prior(self) -> Prior:
        if self._ready_made("prior"):
            return self._placed(build_prior(self.config.model))
        prior: Prior = self._finished("prior")
        return prior

    def _scaled_autoencoder(self) -> Autoencoder:
        """The trained autoencoder, its latents scaled to unit variance over the footage."""
        if self._ready_made("autoencoder"):
            return self._placed(build_autoencoder(self.config.model)).eval()
        net: Autoencoder = self._finished("autoencoder")
        clips = self.data.train[:: max(1, len(self.data.train) // 16)]
        frames = torch.cat([torch.tensor(c.frames[:: max(1, len(c) // 4)]) for c in clips])
        net.measure_scale(frames.to(self.options.device))
        return net

    def _latents(self, autoencoder: Autoencoder) -> LatentSet:
        with tqdm(desc="latents", unit="frame") as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

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
        facts={"consent": consent, "source": source, "command": command, **facts},
        card=card(name, consent, source, command, facts),
    )


def card(name: str, consent: str, source: str, command: str, facts: dict[str, Any]) -> str:
    """The avatar's card, Markdown: who, which footage, consent, licence, measured quality."""
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
            "- Videos made with this avatar are generated; say so where you show them.",
            "",
            "| stage | steps | minutes | held-out numbers at the end |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _facts(run: Run) -> dict[str, Any]:
    stages: dict[str, Any] = {}
    for stage in STAGES:
        record = run.options.run / stage / "checkpoint" / "facts.json"
        if record.is_file():
            raw = json.loads(record.read_text())
            numbers = ", ".join(f"{k} {v:.4g}" for k, v in raw["validation"].items())
            stages[stage] = {
                "steps": raw["step"],
                "minutes": raw["seconds"] / 60,
                "validation": numbers,
            }
    return {
        "stages": stages,
        "seed": run.options.seed,
        "date": date.today().isoformat(),
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
