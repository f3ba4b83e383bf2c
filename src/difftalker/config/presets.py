"""Presets: functions that return a whole config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from difftalker.config.schema import (
    FEATURE_DIMS,
    AutoencoderConfig,
    CompletionConfig,
    Config,
    LightConfig,
    ModelConfig,
    PriorConfig,
    SamplingConfig,
    SynthesisConfig,
)
from difftalker.config.training import (
    STAGES,
    LandmarkRecipe,
    PriorRecipe,
    StageConfig,
    SynthesisRecipe,
    TrainingConfig,
)
from difftalker.errors import UsageError

FINE_TUNING = 3
"""How many times fewer steps a stage takes whose network begins at an avatar's."""


def debug() -> Config:
    """A few thousand parameters, for tests in seconds."""
    stage = StageConfig(
        steps=6,
        batch=2,
        learning_rate=1e-3,
        warmup_steps=2,
        validate_every=3,
        checkpoint_every=2,
        log_every=1,
        ema=0.9,
    )
    return Config(
        model=ModelConfig(
            preset="debug",
            size_px=64,
            completion=CompletionConfig(
                features="mel",
                feature_dim=80,
                width=16,
                heads=2,
                layers=1,
                audio_dim=16,
                neighbours=2,
                opening_from_speech=True,
            ),
            autoencoder=AutoencoderConfig(channels=(8, 16), latent_channels=4, groups=4),
            prior=PriorConfig(channels=(8, 16), groups=4, head_dim=8, context_dim=8),
            synthesis=SynthesisConfig(stem_channels=(4, 4, 8), heads=2, window=4),
            light=LightConfig(
                channels=(8, 8, 16, 16),
                landmark_channels=(4, 4, 8, 8),
                speech_dim=8,
                normalised=True,
            ),
            live=CompletionConfig(
                features="mel-live",
                feature_dim=80,
                width=16,
                heads=2,
                audio_dim=16,
                neighbours=0,
                opening_from_speech=True,
                hold_in_silence=False,
            ),
            sampling=SamplingConfig(steps=2),
        ),
        training=TrainingConfig(
            landmarks=stage,
            autoencoder=stage,
            prior=stage,
            synthesis=stage,
            decoder=stage,
            light=stage,
            live=stage,
            validation_clips=1,
            span_frames=12,
            autocast=False,
        ),
    )


def tiny() -> Config:
    """The default: trains in under three hours and dubs in real time on a 2-core CPU."""
    return Config(
        model=ModelConfig(
            completion=CompletionConfig(opening_from_speech=True),
            synthesis=SynthesisConfig(guidance="both"),
            light=LightConfig(normalised=True),
        ),
        training=TrainingConfig(
            landmarks=StageConfig(
                steps=300, batch=6, learning_rate=1.5e-4, ema=0.99, autocast=False
            ),
            autoencoder=StageConfig(steps=1300, batch=16, learning_rate=6e-4, ema=0.99),
            prior=StageConfig(steps=1000, batch=32, learning_rate=5e-4, ema=0.995),
            synthesis=StageConfig(steps=900, batch=32, learning_rate=5e-4, ema=0.995),
            decoder=StageConfig(steps=600, batch=6, learning_rate=2e-4, ema=0.99),
            light=StageConfig(steps=4000, batch=16, learning_rate=6e-4, ema=0.998),
            live=StageConfig(steps=300, batch=6, learning_rate=1.5e-4, ema=0.99, autocast=False),
            completed_share=0.5,
        ),
    )


def half() -> Config:
    """``tiny`` at half its side and two thirds of its width: for comparisons of many variants."""
    diffusion = StageConfig(steps=800, batch=16, learning_rate=8e-4, ema=0.99, validate_every=400)
    return Config(
        model=ModelConfig(
            preset="half",
            size_px=128,
            completion=CompletionConfig(audio_dim=64, opening_from_speech=True),
            autoencoder=AutoencoderConfig(channels=(64, 128)),
            prior=PriorConfig(channels=(64, 96, 128)),
            synthesis=SynthesisConfig(stem_channels=(16, 32, 48)),
            light=LightConfig(normalised=True),
        ),
        training=TrainingConfig(
            landmarks=StageConfig(
                steps=300,
                batch=4,
                learning_rate=5e-4,
                warmup_steps=50,
                ema=0.99,
                autocast=False,
                validate_every=150,
            ),
            autoencoder=StageConfig(
                steps=1500, batch=8, learning_rate=8e-4, ema=0.99, validate_every=500
            ),
            prior=diffusion,
            synthesis=diffusion,
            decoder=StageConfig(steps=0, batch=8, learning_rate=2e-4),
            light=StageConfig(steps=0, batch=8, learning_rate=6e-4),
            live=StageConfig(steps=0, batch=4, learning_rate=5e-4),
            latent_stride=3,
        ),
    )


def base() -> Config:
    """About 80 million parameters, for one GPU."""
    return Config(
        model=ModelConfig(
            preset="base",
            completion=CompletionConfig(width=128, opening_from_speech=True),
            autoencoder=AutoencoderConfig(channels=(64, 128, 256), patch=2, layers=2),
            prior=PriorConfig(channels=(192, 320, 448), layers=2, head_dim=64, attention_levels=2),
            synthesis=SynthesisConfig(stem_channels=(32, 64, 128)),
            sampling=SamplingConfig(steps=10),
            light=LightConfig(normalised=True),
        ),
        training=TrainingConfig(
            landmarks=StageConfig(steps=6000, batch=32, learning_rate=5e-4),
            autoencoder=StageConfig(steps=30000, batch=32, learning_rate=3e-4),
            prior=StageConfig(steps=40000, batch=64, learning_rate=2e-4, ema=0.9995),
            synthesis=StageConfig(steps=40000, batch=64, learning_rate=1e-4, ema=0.9995),
            decoder=StageConfig(steps=10000, batch=16, learning_rate=1e-4),
            light=StageConfig(steps=30000, batch=32, learning_rate=5e-4),
            live=StageConfig(steps=6000, batch=32, learning_rate=5e-4),
        ),
    )


def sd15() -> Config:
    """The paper's scale: Stable Diffusion 1.5 as the prior, crops of 512 pixels."""
    return Config(
        model=ModelConfig(
            preset="sd15",
            size_px=512,
            completion=CompletionConfig(width=128, opening_from_speech=True),
            prior=PriorConfig(prediction="epsilon"),
            synthesis=SynthesisConfig(stem_channels=(16, 32, 96), heads=8),
            sampling=SamplingConfig(steps=20),
            base_model="stable-diffusion-v1-5/stable-diffusion-v1-5",
            light=LightConfig(normalised=True),
        ),
        training=TrainingConfig(
            landmarks=StageConfig(steps=6000, batch=32, learning_rate=5e-4),
            autoencoder=StageConfig(steps=1, batch=1, learning_rate=1e-5),
            prior=StageConfig(steps=1, batch=1, learning_rate=1e-5),
            synthesis=StageConfig(steps=60000, batch=8, learning_rate=1e-4, ema=0.9995),
            decoder=StageConfig(steps=10000, batch=4, learning_rate=5e-5),
            light=StageConfig(steps=30000, batch=16, learning_rate=5e-4),
            live=StageConfig(steps=6000, batch=32, learning_rate=5e-4),
        ),
    )


def paper() -> Config:
    """Sections 2 and 3.2 of the paper, with networks as large as those of ``tiny``.

    ``docs/paper.md`` lists each value that differs from ``tiny``. The stages ``autoencoder`` and
    ``prior`` stand for the training of Stable Diffusion 1.5, whose networks the paper takes as they
    are: here they are trained on the footage and then frozen.
    """
    return Config(
        model=ModelConfig(
            preset="paper",
            completion=paper_completion(
                CompletionConfig(features="characters", feature_dim=FEATURE_DIMS["characters"])
            ),
            prior=PriorConfig(prediction="epsilon"),
            synthesis=SynthesisConfig(guidance="landmarks"),
            sampling=SamplingConfig(sampler="ddim", steps=50),
            light=LightConfig(normalised=True),
        ),
        training=TrainingConfig(
            landmarks=_plain_adam(steps=3000, batch=6, learning_rate=5e-4, autocast=False),
            autoencoder=StageConfig(steps=1300, batch=16, learning_rate=6e-4, ema=0.99),
            prior=StageConfig(steps=1000, batch=32, learning_rate=5e-4, ema=0.995),
            synthesis=_plain_adam(steps=4500, batch=32, learning_rate=1e-4),
            decoder=StageConfig(steps=0, batch=6, learning_rate=2e-4, ema=0.99),
            light=StageConfig(steps=0, batch=16, learning_rate=6e-4, ema=0.998),
            live=StageConfig(steps=0, batch=6, learning_rate=1.5e-4, ema=0.99, autocast=False),
            landmark_recipe=PAPER_LANDMARKS,
            prior_recipe=PriorRecipe(whole_share=1.0),
            synthesis_recipe=SynthesisRecipe(
                sampler_share=0.0,
                whole_share=0.0,
                other_upper_share=0.0,
                other_speech_share=0.0,
                no_speech_share=0.0,
                speech_jitter=0.0,
                point_jitter=0.0,
            ),
            lips_weight=0.0,
            mouth_weight=1.0,
            completed_share=0.0,
            voices=0,
            align_sound=False,
            latent_stride=1,
        ),
    )


PAPER_LANDMARKS = LandmarkRecipe(base_weight=0.0, rotation_rad=0.0, scaling=0.0, shift_crop=0.0)
"""Eq. 1 alone, on points as they were found."""


def _plain_adam(
    *, steps: int, batch: int, learning_rate: float, autocast: bool = True
) -> StageConfig:
    """Adam as in Section 3.2, which names nothing besides the learning rate."""
    return StageConfig(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        optimizer="adam",
        betas=(0.9, 0.999),
        weight_decay=0.0,
        schedule="constant",
        warmup_steps=0,
        clip_norm=0.0,
        ema=0.0,
        autocast=autocast,
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "debug": debug,
    "half": half,
    "tiny": tiny,
    "base": base,
    "sd15": sd15,
    "paper": paper,
}


def paper_completion(config: CompletionConfig) -> CompletionConfig:
    """The completion as in Section 2.3: frame by frame, a contour without audio."""
    return dataclasses.replace(
        config,
        neighbours=0,
        audio_moves_contour=False,
        dropout=0.0,
        least_squares=False,
        opening_from_speech=False,
        hold_in_silence=False,
    )


COMPLETIONS: dict[str, Callable[[CompletionConfig], CompletionConfig]] = {
    "default": lambda config: config,
    "paper": paper_completion,
}


def preset(name: str, *, completion: str = "default") -> Config:
    """The preset ``name`` with the completion ``default`` or ``paper``.

    Raises:
        UsageError: there is no such preset.
    """
    for kind, table, key in (("preset", PRESETS, name), ("completion", COMPLETIONS, completion)):
        if key not in table:
            raise UsageError(f"no {kind} is called {key!r}", wanted=" or ".join(table))
    config = PRESETS[name]()
    chosen = COMPLETIONS[completion](config.model.completion)
    model = dataclasses.replace(config.model, completion=chosen)
    if completion != "paper":
        return dataclasses.replace(config, model=model)
    training = dataclasses.replace(
        config.training, lips_weight=0.0, landmark_recipe=PAPER_LANDMARKS
    )
    return dataclasses.replace(config, model=model, training=training)


def fine_tuned(config: Config) -> Config:
    """The budget of networks that begin at an avatar's: a third of the steps of every stage."""
    training = config.training
    for stage in STAGES:
        shortened: Any = {stage: _shortened(getattr(training, stage))}
        training = dataclasses.replace(training, **shortened)
    return dataclasses.replace(config, training=training)


def _shortened(stage: StageConfig) -> StageConfig:
    steps, warmup = (-(-n // FINE_TUNING) for n in (stage.steps, stage.warmup_steps))
    return dataclasses.replace(stage, steps=steps, warmup_steps=warmup)


def with_features(config: Config, features: str, dim: int) -> Config:
    """The configuration with completion on other speech features, ``dim`` wide."""
    completion = dataclasses.replace(config.model.completion, features=features, feature_dim=dim)
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, completion=completion)
    )


def check_features(config: CompletionConfig) -> None:
    """Refuse features that have not the width that the networks are made for.

    Raises:
        UsageError: they have not.
    """
    dim = FEATURE_DIMS.get(config.features, config.feature_dim)
    if dim != config.feature_dim:
        raise UsageError(
            f"model.completion.feature_dim is {config.feature_dim}",
            wanted=f"{dim} for {config.features} features",
            fix="choose speech features with --features, which sets both",
        )
