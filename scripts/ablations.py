"""Train the paper's ablations and ours, all with the same budget; run again it goes on.

    python scripts/ablations.py data/grid/s1 --clips data/grid/protocol.json:train \
        --run runs/ablations --output runs/ablations/avatars --consent "..."

Every variant is the preset with one change (VARIANTS): same footage, seed, sizes and steps. A stage
that a change does not touch is trained once and linked from the variant that has it, so that the
variants differ by their change alone. The avatars are then measured beside each other:

    difftalker evaluate runs/ablations/avatars/reference data/grid/s1 \
        --clips data/grid/protocol.json:test --report out/ablations \
        --ablation no-am-trans=runs/ablations/avatars/no-am-trans ...

A variant that fails is reported and does not stop the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from difftalker import config as configs
from difftalker.config import STAGES, Config, from_saved
from difftalker.errors import DiffTalkerError, UsageError


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The preset with one change."""

    changes: str
    """In words."""
    settings: Mapping[str, str] = field(default_factory=dict)
    completion: str = "default"


def _features(name: str, dim: int) -> dict[str, str]:
    return {"model.completion.features": name, "model.completion.feature_dim": str(dim)}


VARIANTS = {
    "reference": Variant(changes="nothing"),
    "no-am-trans": Variant(
        changes="no AM-Trans: audio into BM-Trans, which predicts the mouth (Section 3.3)",
        settings={"model.completion.audio_offsets": "false"},
    ),
    "no-landmarks": Variant(
        changes="no landmarks: speech features in place of the prompt (Section 3.4)",
        settings={"model.synthesis.guidance": "audio"},
    ),
    "paper": Variant(
        changes="completion as printed: frame by frame, a contour without audio (Section 2.3)",
        completion="paper",
    ),
    "mel": Variant(changes="speech as log-mels", settings=_features("mel", 80)),
    "characters": Variant(
        changes="speech as 29 character posteriors (Section 2.2)",
        settings=_features("characters", 29),
    ),
    "mouth-mask": Variant(
        changes="a mask that leaves the jaw line visible", settings={"model.mask": "mouth"}
    ),
    "tuned-prior": Variant(
        changes="a prior that the synthesis goes on training",
        settings={"model.synthesis.tune_prior": "true"},
    ),
}
"""In the order of training: what the paper measures comes first."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all variants share."""

    footage: Sequence[Path]
    run: Path
    output: Path
    consent: str
    clips: Sequence[str] = ()
    preset: str = "half"
    settings: Mapping[str, str] = field(default_factory=dict)
    stages: Sequence[str] = STAGES
    source: str = ""
    seed: int = 0
    device: str = "auto"
    threads: int = 0


def configuration(name: str, options: Options) -> Config:
    """The whole configuration of one variant."""
    variant = VARIANTS[name]
    config = configs.preset(options.preset, completion=variant.completion)
    return configs.override(config, {**options.settings, **variant.settings})


def train_variant(name: str, options: Options) -> dict[str, Any]:
    """Train what is left of one variant; returns its numbers on clips held out, by stage.

    Raises:
        DiffTalkerError: it cannot be trained.
    """
    from difftalker.training import api as recipe

    dataset = _dataset(configuration(name, options), options)
    _link_equal_stages(name, options)
    recipe.train(
        [dataset],
        options.output / name,
        consent=options.consent,
        preset=options.preset,
        completion=VARIANTS[name].completion,
        start="none",
        settings={**options.settings, **VARIANTS[name].settings},
        stages=options.stages,
        run=options.run / name,
        name=name if options.preset == "half" else f"{options.preset}-{name}",
        source=options.source,
        command=shlex.join(["python", "scripts/ablations.py", *sys.argv[1:]]),
        seed=options.seed,
        device=options.device,
        threads=options.threads,
    )
    return numbers(options.run / name)


def ingredients(stage: str, config: Config) -> tuple[Any, ...]:
    """All settings that a stage's result depends on: equal ones make equal networks."""
    model, training = config.model, config.training
    common = (model.base_model, training.validation_clips, training.autocast)
    speech = (model.completion.features, model.completion.feature_dim, model.completion.window)
    own: dict[str, tuple[Any, ...]] = {
        "landmarks": (
            model.completion,
            training.span_frames,
            training.lips_weight,
            training.landmark_recipe,
        ),
        "autoencoder": (
            model.autoencoder,
            model.size_px,
            model.mask,
            training.autoencoder_recipe,
        ),
        "prior": (model.prior, training.latent_stride, training.prior_recipe),
        "synthesis": (
            model.synthesis,
            model.sampling,
            training.mouth_weight,
            training.completed_share,
            training.synthesis_recipe,
            *(speech if model.synthesis.guidance == "audio" else ()),
        ),
        "decoder": (training.latent_stride, training.decoder_recipe),
        "light": (model.light, training.latent_stride, training.light_recipe),
        "live": (
            model.live,
            training.span_frames,
            training.lips_weight,
            training.landmark_recipe,
        ),
    }
    before = {
        "prior": "autoencoder",
        "synthesis": "prior",
        "decoder": "synthesis",
        "light": "decoder",
    }
    earlier = ingredients(before[stage], config) if stage in before else common
    return (*earlier, *own[stage], getattr(training, stage))


def _link_equal_stages(name: str, options: Options) -> None:
    """Take finished stages from other variants in which nothing that they depend on differs."""
    config = configuration(name, options)
    for stage in STAGES:
        for donor in VARIANTS:
            if (options.run / name / stage).exists():
                break
            if donor != name and _has(options.run / donor, stage, config):
                _link(options.run / donor / stage, options.run / name / stage)
                if stage == "autoencoder" and (options.run / donor / "latents").is_dir():
                    _link(options.run / donor / "latents", options.run / name / "latents")


def _has(run: Path, stage: str, config: Config) -> bool:
    """Whether a run has finished a stage as this configuration would."""
    facts, written = run / stage / "checkpoint" / "facts.json", run / "config.json"
    if not (facts.is_file() and written.is_file()):
        return False
    theirs = from_saved(Config, json.loads(written.read_text()), str(written))
    reached, budget = json.loads(facts.read_text()), getattr(theirs.training, stage)
    in_time = budget.minutes and reached["seconds"] >= 60 * budget.minutes
    finished = reached["step"] >= budget.steps or in_time
    return bool(finished) and ingredients(stage, theirs) == ingredients(stage, config)


def _link(folder: Path, target: Path) -> None:
    """The folder a second time, complete or absent; training replaces files, it changes none."""
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(folder, part, copy_function=os.link)
    except (OSError, shutil.Error):  # no hard links here
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(folder, part)
    os.replace(part, target)


def _dataset(config: Config, options: Options) -> Path:
    """The dataset given, or one made of the footage, with the features of a variant."""
    from difftalker.data.footage import find_footage
    from difftalker.data.prepare import PrepareConfig, load_manifest, prepare
    from difftalker.speech.registry import ENCODERS

    if len(options.footage) == 1 and (options.footage[0] / "manifest.json").is_file():
        return options.footage[0]
    wanted, folder = config.model.completion.features, options.run / "data"
    if wanted not in ENCODERS:
        raise UsageError(f"no features are called {wanted!r}", wanted=" or ".join(ENCODERS))
    there = (folder / "manifest.json").is_file()
    known = load_manifest(folder).config.features if there else ()
    if wanted not in known:
        size_px, features = config.model.size_px, tuple(dict.fromkeys((*known, wanted)))
        videos = find_footage(options.footage, options.clips)
        prepare(videos, folder, PrepareConfig(size_px=size_px, features=features))
    return folder


def numbers(run: Path) -> dict[str, Any]:
    """Steps and last validation of each stage of a run."""
    found = {}
    for stage in STAGES:
        facts = run / stage / "checkpoint" / "facts.json"
        if facts.is_file():
            raw = json.loads(facts.read_text())
            found[stage] = {"steps": raw["step"], **raw["validation"]}
    return found


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("footage", type=Path, nargs="+", help="videos, folders, or one dataset")
    parser.add_argument("--clips", action="append", default=[], help="as in `difftalker train`")
    parser.add_argument("--run", type=Path, required=True, help="checkpoints, logs and sheets")
    parser.add_argument("--output", type=Path, required=True, help="folder of the avatars")
    parser.add_argument("--consent", required=True, help="who agreed, and how")
    parser.add_argument("--source", default="", help="corpus and licence of the footage")
    parser.add_argument("--preset", default="half", choices=sorted(configs.PRESETS))
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, for all variants")
    parser.add_argument("--only", action="append", choices=list(VARIANTS), help="this variant")
    parser.add_argument("--stage", action="append", choices=STAGES, help="this stage alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Train the variants one after the other; 1 where one failed."""
    given = _arguments(words)
    options = Options(
        footage=given.footage,
        run=given.run,
        output=given.output,
        consent=given.consent,
        clips=given.clips,
        preset=given.preset,
        settings=dict(setting.split("=", 1) for setting in given.set),
        stages=given.stage or STAGES,
        source=given.source,
        seed=given.seed,
        device=given.device,
        threads=given.threads,
    )
    failed = False
    for name in given.only or VARIANTS:
        print(f"{name}: {VARIANTS[name].changes}", file=sys.stderr)
        try:
            print(json.dumps({"variant": name, **train_variant(name, options)}), flush=True)
        except DiffTalkerError as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
