"""`difftalker train`: the stages one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from difftalker.config import STAGES, Config, ModelConfig, from_saved
from difftalker.core.files import write_whole
from difftalker.core.jobs import Cancel, OnEvent, never, no_event
from difftalker.data.dataset import Dataset, load_dataset
from difftalker.errors import TrainingError, UsageError
from difftalker.training import artefacts, processes
from difftalker.training.artefacts import Facts
from difftalker.training.init_from import open_start, remember_start
from difftalker.training.options import TrainOptions
from difftalker.training.sources import Sources
from difftalker.training.stages import TABLE
from difftalker.training.task import Log, Task
from difftalker.training.trainer import Trainer

Look = Callable[[str, Task, Log], None]
"""Called with a stage, its task and its numbers; see ``Trainer.on_validation``."""


def no_look(stage: str, task: Task, numbers: Log) -> None:
    """Nobody looks."""


class Run:
    """One training run: each stage is built when its turn comes, and leaves an artefact."""

    def __init__(self, config: Config, options: TrainOptions) -> None:
        _check_stages(options.stages)
        alone = not config.training.diffusion
        begun = options.start
        start = open_start(begun, config.model, light_alone=alone) if begun else None
        self.config, self.options = config, options
        data: Dataset = load_dataset(
            options.dataset,
            validation_clips=config.training.validation_clips,
            mask=config.model.mask,
        )
        self.data = data
        self.sources = Sources(config, options, data, start)
        self._check_diffusion()
        self._check_synthesis()
        self._check_live()
        _remember_config(config, options)
        remember_start(options.run, options.start)
        if self.data.size_px != config.model.size_px:
            raise UsageError(
                f"the dataset's crops are {self.data.size_px} pixels wide",
                wanted=f"{config.model.size_px} for preset {config.model.preset}",
                fix=f"run `difftalker prepare` with --size {config.model.size_px}",
            )

    def train(
        self, on_event: OnEvent = no_event, cancel: Cancel = never, look: Look = no_look
    ) -> dict[str, Log]:
        """Run the chosen stages, and those of no steps; returns each one's last validation.

        ``look`` is called after each validation.

        Raises:
            TrainingError: a loss is not finite, or a stage before a chosen one is not finished.
            Cancelled: ``cancel`` said so; the same run goes on from that step.
        """
        if self.options.threads:
            torch.set_num_threads(self.options.threads)
        numbers = {}
        for stage in TABLE:
            if self._is_due(stage):
                log = self._finish(stage, on_event, cancel, look)
                if self.sources.steps(stage):
                    numbers[stage] = log
        return numbers

    def trainer(self, stage: str) -> Trainer:
        """The trainer of one stage, at the step where it was left; nothing is trained yet."""
        torch.manual_seed(self.options.seed)
        config = getattr(self.config.training, stage)
        return Trainer(
            TABLE[stage].task(self.sources),
            config,
            self.options.run / stage,
            seed=self.options.seed,
            autocast=self.config.training.autocast and config.autocast,
            device=self.options.device,
        )

    def unfinished(self) -> list[str]:
        """Stages that have yet to be trained, in order."""
        return [stage for stage in TABLE if not self.sources.finished(stage)]

    def kept(self) -> dict[str, Any]:
        """What is known of the stages that stay as they are in the avatar that the run began at."""
        start = self.sources.start
        known = start.facts.get("stages", {}) if start else {}
        return {stage: facts for stage, facts in known.items() if self.sources.ready_made(stage)}

    def trained_on(self) -> dict[str, Any]:
        """What is known of the stages of an avatar that this run trains on; of others nothing."""
        start = self.sources.start
        return start.facts.get("stages", {}) if start and self.options.keep else {}

    def ancestors(self) -> list[dict[str, str]]:
        """The avatars whose weights are in this one, nearest first: ``name`` and ``source``."""
        start = self.sources.start
        if start is None:
            return []
        own = {"name": start.name, "source": str(start.facts.get("source", "unknown"))}
        before = [own, *(one for one in start.facts.get("begun_at", []) if one != own)]
        if faces := self.sources.faces:
            before.append({"name": "faces", "source": str(faces.facts.get("corpora", "unknown"))})
        return before

    def _is_due(self, stage: str) -> bool:
        if self.sources.ready_made(stage) or self.sources.left_out(stage):
            return False
        if self.sources.steps(stage):
            return stage in self.options.stages
        # Without steps there is only what is fitted, or the network as it begins.
        return all(map(self.sources.finished, TABLE[stage].needs))

    def _finish(self, stage: str, on_event: OnEvent, cancel: Cancel, look: Look) -> Log:
        """Train a stage to its end, and write its artefact."""
        if self.sources.finished(stage):
            return self._last(stage)
        with processes.first_alone():
            trainer = self.trainer(stage)
        trainer.on_validation = partial(look, stage)
        numbers = trainer.run(on_event, cancel)
        if not processes.rank():
            self._leave(stage, trainer, numbers)
        processes.wait()
        return numbers

    def _leave(self, stage: str, trainer: Trainer, numbers: Log) -> None:
        """Write the artefact of a stage that is trained."""
        trainer.task.model.eval()
        with torch.no_grad():
            left = TABLE[stage].artefact(trainer.task, self.sources)
        facts = Facts(
            stage=stage,
            steps=trainer.step,
            seconds=trainer.seconds,
            seed=self.options.seed,
            validation=numbers,
            config={"model": asdict(self.config.model), "training": asdict(trainer.config)},
        )
        artefacts.save(self.sources.folder(stage) / "artefact", left, facts)

    def _last(self, stage: str) -> Log:
        """The numbers of a stage that is finished."""
        facts = artefacts.load_facts(self.sources.folder(stage) / "artefact")
        if facts is None:
            return {}
        if facts.seed != self.options.seed:
            raise TrainingError(
                f"the run in {self.options.run} was begun with seed {facts.seed}",
                wanted=f"seed {self.options.seed}",
                fix="use its seed, or another output folder",
            )
        return dict(facts.validation)

    def _check_live(self) -> None:
        """Refuse footage without the features of the last stage before the first begins."""
        sources = self.sources
        if "live" in self.options.stages and not (
            sources.left_out("live") or sources.ready_made("live")
        ):
            self.data.train[0].features(self.config.model.live.features)

    def _check_diffusion(self) -> None:
        """Refuse to begin a diffusion at an avatar that has none, and to train what is left out."""
        start, wanted = self.sources.start, self.config.training.diffusion
        if start and wanted and not start.has_diffusion:
            raise UsageError(
                f"the avatar {start.name} has no diffusion to begin at",
                fix="train with --quality light, or begin at another avatar",
            )
        begun = self.sources.faces or (start and "light" in start.parts)
        if not wanted and not self.sources.steps("light") and not begun:
            raise UsageError(
                "an avatar without diffusion, and no steps for a light network that begins at"
                " random",
                wanted="training.light.steps above 0",
            )

    def _check_synthesis(self) -> None:
        """Refuse to keep a synthesis that is guided by something else than is wanted."""
        wanted, start = self.config.model.synthesis.guidance, self.sources.start
        if start and self.sources.ready_made("synthesis"):
            found = start.config.synthesis.guidance
            if found != wanted:
                raise UsageError(
                    f"the synthesis of {start.name} is guided by {found}, not by {wanted}",
                    fix="train the stage synthesis as well",
                )


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
    try:
        return from_saved(ModelConfig, json.loads(path.read_text())["model"], str(path))
    except UsageError as error:
        raise TrainingError(
            f"the run in {path.parent} was begun by another version of DiffTalker ({error.found})",
            fix="use another --run folder",
        ) from error
