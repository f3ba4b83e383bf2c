"""The baselines by name: their training, and what is kept of it.

They are written after the papers of the rivals of the paper's Table 1, for a comparison on the same
clips, crops and time. A system is added by adding it to ``SYSTEMS``.

    BASELINE/config.json, model.safetensors, card.md      as experts are kept (``store.experts``)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from difftalker.baselines import after_daetalker, after_makeittalk, after_wav2lip
from difftalker.baselines.base import BaselineOptions, BaselineRenderer, Stage, System
from difftalker.config import FEATURE_DIMS, override
from difftalker.core.device import pick_device, use_threads
from difftalker.data.dataset import Dataset, load_dataset
from difftalker.errors import AssetError, UsageError
from difftalker.speech.registry import features_called
from difftalker.store import experts
from difftalker.store.journal import key_of
from difftalker.training.task import Log
from difftalker.training.trainer import Trainer

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (after_wav2lip.SYSTEM, after_makeittalk.SYSTEM, after_daetalker.SYSTEM)
}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A trained baseline, ready to dub."""

    system: System
    net: Any
    features: str
    """Its speech features, a name of :data:`difftalker.speech.registry.ENCODERS`."""
    window: int
    """Features around a frame."""
    sha256: str
    """Hash of its weights."""
    device: str

    def renderer(self, seed: int = 0) -> BaselineRenderer:
        """What generates its lower faces."""
        ways = (torch.__version__, self.device, torch.get_num_threads())
        key = key_of(self.system.name, self.sha256, repr(self.net), seed, *ways)
        return self.system.renderer(self.net, key=key, device=self.device, seed=seed)


def system_called(name: str) -> System:
    """The system of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in SYSTEMS:
        raise UsageError(f"no baseline is called {name!r}", wanted=" or ".join(SYSTEMS))
    return SYSTEMS[name]


def load(folder: str | Path, *, device: str = "cpu") -> Baseline:
    """The trained baseline in a folder.

    Raises:
        AssetError: the folder or a file is missing, altered, or no baseline.
    """
    folder = Path(folder)
    kind = experts.kind_of(folder)
    if kind not in SYSTEMS:
        raise AssetError(
            f"{folder} is no baseline",
            wanted=" or ".join(SYSTEMS),
            fix=f"make one with `difftalker baseline train NAME DATASET --output {folder}`",
        )
    files, system = experts.read(folder, kind=kind), SYSTEMS[kind]
    net = files.load_network(system.network, system.settings).to(device)
    return Baseline(
        system=system,
        net=net,
        features=str(files.facts.get("features", system.features)),
        window=net.window,
        sha256=files.sha256,
        device=device,
    )


def train(
    name: str,
    dataset: Path,
    output: Path,
    *,
    run: Path | None = None,
    features: str = "",
    sync: str | Path = "",
    settings: Mapping[str, str] | None = None,
    validation_clips: int = 4,
    minutes: float = 60.0,
    steps: int = 0,
    command: str = "difftalker.baselines.train",
    seed: int = 0,
    device: str = "auto",
    threads: int = 0,
) -> Log:
    """Train a baseline on a dataset made by ``prepare``, and write it to ``output``.

    A call that was stopped goes on where it was, from the folder ``run`` (by default
    ``OUTPUT-run``). All stages together take ``minutes``, or until all steps are taken if that is
    0; ``steps`` replaces each stage's own number. ``features`` are the stored speech features, by
    default the system's own, ``sync`` a sync expert's folder in place of the packaged one, and
    ``settings`` single values of the system's configuration, such as ``{"batch": "8"}``. Returns
    each stage's figures on ``validation_clips`` clips that it did not learn from.

    Raises:
        UsageError: there is no such system, setting, or kind of features in the dataset.
        AssetError: ``output`` holds something that is no baseline, or there is no sync expert.
        MediaError: there is no dataset.
        TrainingError: a loss is not finite, or no clip shows a face for long enough.
    """
    system = system_called(name)
    experts.check_replaceable(output)
    use_threads(threads)
    options = BaselineOptions(
        run=run or output.with_name(f"{output.name}-run"),
        features=features_called(features) if features else system.features,
        sync=sync,
        seed=seed,
        device=pick_device(device),
    )
    data = load_dataset(dataset, validation_clips=validation_clips)
    config = configuration(system, data, options.features, settings or {})
    torch.manual_seed(seed)
    net = system.network(config).to(options.device)
    net.remember(data.train)
    figures: Log = {}
    taken: dict[str, dict[str, float]] = {}
    for stage in system.stages(net, config, data, options):
        trainer = _trainer(stage, options, steps, minutes)
        numbers = trainer.run()
        figures |= {f"{stage.task.name}_{key}": value for key, value in numbers.items()}
        taken[stage.task.name] = {"steps": trainer.step, "minutes": trainer.seconds / 60}
    facts = {
        "features": options.features,
        "command": command,
        "stages": taken,
        "clips_train": len(data.train),
        "clips_unseen": [clip.name for clip in data.validation],
        "unseen": figures,
        "seed": seed,
        "date": date.today().isoformat(),
    }
    experts.write(
        output,
        kind=name,
        config=asdict(config),
        weights=net.state_dict(),
        facts=facts,
        card=_card(system, facts),
    )
    return figures


def configuration(system: System, data: Dataset, features: str, settings: Mapping[str, str]) -> Any:
    """The system's configuration at the dataset's sizes, with single values replaced."""
    dim = FEATURE_DIMS.get(features, 0) or data.train[0].features(features).shape[1]
    config = override(system.settings(size_px=data.size_px, feature_dim=dim), settings)
    for name, value in (("size_px", data.size_px), ("feature_dim", dim)):
        if getattr(config, name) != value:
            raise UsageError(f"{name} = {getattr(config, name)}", wanted=f"the dataset's, {value}")
    return config


def _trainer(stage: Stage, options: BaselineOptions, steps: int, minutes: float) -> Trainer:
    """The trainer of a stage, with its share of the minutes."""
    config = replace(stage.config, steps=steps or stage.config.steps, minutes=minutes * stage.share)
    return Trainer(
        stage.task,
        config,
        options.run / stage.task.name,
        seed=options.seed,
        autocast=config.autocast,
        device=options.device,
    )


def _card(system: System, facts: Mapping[str, Any]) -> str:
    figures = "\n".join(f"| {name} | {value:.4g} |" for name, value in facts["unseen"].items())
    stages = ", ".join(
        f"{name} {one['steps']} steps in {one['minutes']:.0f} minutes"
        for name, one in facts["stages"].items()
    )
    return f"""# Baseline {system.name}

{system.about}

Written after the paper's description; none of its authors' code or weights is in it.

- By: `{facts["command"]}`, seed {facts["seed"]}, on {facts["date"]}
- Stages: {stages}
- Speech features: {facts["features"]}
- Clips: {facts["clips_train"]} to learn from; held out: {", ".join(facts["clips_unseen"])}

| on the clips held out | |
|---|---|
{figures}
"""
