"""Every size and setting, as frozen dataclasses; presets are functions that return a whole config.

A config is checked at its birth, and read from JSON strictly: an unknown key is an error.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from difftalker.errors import UsageError

DEFAULT_CRF = 14
"""x264's quality: here the structure of camera footage survives (SSIM 0.975; 0.966 at 18)."""

DEFAULT_FPS, MAX_FPS = 25.0, 120.0
"""Frames a second of videos that have no footage."""

MAX_SIZE_PX = 1024
"""The largest crop: a picture of so many pixels a side takes 16,384 latents."""

STAGES = ("landmarks", "autoencoder", "prior", "synthesis", "decoder")

FINE_TUNING = 3
"""How many times fewer steps a stage takes whose network begins at an avatar's."""

MASKS = ("jaw", "mouth")
"""What is made anew: the lower face with its jaw line, or the mouth alone."""
GUIDANCES = ("landmarks", "audio", "both")
"""What tells the synthesis of the mouth."""
FEATURE_DIMS = {"whisper-short": 384, "whisper": 384, "characters": 29, "mel": 80}
"""Width of each kind of speech features, by the names of ``speech.encoder.ENCODERS``."""
FEATURE_OPTIONS = {
    "whisper": "whisper-short",
    "whisper-short": "whisper-short",
    "whisper-padded": "whisper",
    "characters": "characters",
    "mel": "mel",
}
"""What ``--features`` may say: Whisper's own windows are for comparison, so its name is longer."""


@dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """LF-Trans, BM-Trans, AM-Trans and the audio network (Sections 2.2 and 2.3)."""

    features: str = "whisper-short"
    """Speech features, a name of :data:`difftalker.speech.encoder.ENCODERS`."""
    feature_dim: int = 384
    window: int = 16
    """Features around a video frame (Section 2.2: sixteen)."""
    width: int = 64
    heads: int = 4
    layers: int = 1
    """Self-attention layers of each transformer."""
    audio_dim: int = 128
    neighbours: int = 8
    """Video frames on either side that a frame looks at; 0 is the paper's frame by frame."""
    audio_moves_contour: bool = True
    """Whether audio offsets the lower contour too; the paper's LF-Trans hears nothing."""
    audio_offsets: bool = True
    """AM-Trans; False is the paper's ablation, with audio into BM-Trans instead."""
    dropout: float = 0.1
    least_squares: bool = True
    """Whether the transformers begin at the least-squares fit of the points to upper points and
    speech, in place of the mean face."""
    hears_opening: bool = False
    """Whether a network beside the least squares tells from the speech how far the lips are open;
    avatars of before know of none."""
    rests: bool = True
    """Whether the mouth is held still where nothing is said (``landmarks.silence_hold``)."""

    def __post_init__(self) -> None:
        _up_to(4096, self, "feature_dim", "width", "audio_dim")
        _up_to(256, self, "window", "heads", "layers")
        _check(0 <= self.neighbours <= 64, "neighbours", self.neighbours, "0 to 64")
        _check(self.width % self.heads == 0, "width", self.width, f"a multiple of {self.heads}")
        _check(0 <= self.dropout < 1, "dropout", self.dropout, "0 <= dropout < 1")


OPENINGS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.26)
"""Of painted mouths, face scales, at which it is known how far the drawn ones were open."""
MOST_ADDED = 0.05
"""Of an opening, to what is drawn; more is no matter of a painting that opens too little."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The KL autoencoder (Section 2.4, reference 18), over patches of pixels."""

    channels: tuple[int, ...] = (96, 192)
    layers: int = 1
    patch: int = 4
    """Pixels a side that go into one position before the first convolution."""
    latent_channels: int = 8
    groups: int = 16
    attention: bool = False
    detail: float = 0.0
    """How much is added of what is finest in the pictures, that they be as sharp as the footage:
    a decoder of latents that were drawn keeps to the middle of what it knows. Measured at the end
    of its training."""
    openings: tuple[float, ...] = ()
    """By how much mouths are drawn wider open than they are to be painted, face scales, at each of
    ``OPENINGS``: thin gaps between lips fade when they are painted. Measured at the end of the
    decoder's training."""

    def __post_init__(self) -> None:
        fits = len(self.openings) in (0, len(OPENINGS))
        fits = fits and all(abs(one) <= MOST_ADDED for one in self.openings)
        wanted = f"{len(OPENINGS)} numbers of at most {MOST_ADDED}"
        _check(fits, "openings", self.openings, wanted)
        _check(0 <= self.detail <= 2, "detail", self.detail, "0 <= detail <= 2")
        _up_to(64, self, "layers", "patch", "latent_channels")
        _up_to(4096, self, "groups")
        _channels(self.channels)
        down = self.patch * 2 ** (len(self.channels) - 1)
        _check(down == 8, "patch", self.patch, "8 pixels a latent: patch x 2^(levels - 1) = 8")


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """The prior U-Net (Section 2.4): trained on the footage, then frozen."""

    channels: tuple[int, ...] = (96, 128, 192)
    layers: int = 1
    groups: int = 32
    head_dim: int = 32
    context_dim: int = 64
    """Width of the prompt's tokens; without a text encoder the prompt is one zero token."""
    context_tokens: int = 1
    attention_levels: int = 1
    """How many of the lowest levels attend."""
    prediction: str = "v_prediction"
    """What the network predicts: ``v_prediction``, or ``epsilon`` as in Eqs. 3 to 6."""
    timesteps: int = 1000

    def __post_init__(self) -> None:
        _up_to(64, self, "layers")
        _up_to(4096, self, "groups", "head_dim", "context_dim", "context_tokens")
        _up_to(10_000, self, "timesteps")
        _channels(self.channels)
        levels = len(self.channels)
        _check(
            0 <= self.attention_levels <= levels,
            "attention_levels",
            self.attention_levels,
            f"0 to {levels}",
        )
        _check(
            self.prediction in ("epsilon", "v_prediction"),
            "prediction",
            self.prediction,
            "epsilon or v_prediction",
        )


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """The landmark branch and its cross-attention into the frozen decoder (Section 2.4)."""

    stem_channels: tuple[int, ...] = (16, 32, 64)
    """Convolutions over the drawn landmarks, each halving the picture."""
    heads: int = 4
    window: int = 8
    """Side of the windows of cross-attention, in positions of the level."""
    guidance: str = "landmarks"
    """``landmarks``, drawn, as in the paper; ``audio``, its ablation (Section 3.4): no landmarks,
    and the speech features around the frame as the prompt, with as many parameters in place of the
    stem; ``both``: drawn landmarks, and speech as the prompt, which knows of teeth and tongue."""
    tune_prior: bool = False
    """Whether this stage goes on training the prior, which the paper freezes."""

    def __post_init__(self) -> None:
        _check(len(self.stem_channels) == 3, "stem_channels", self.stem_channels, "3 numbers")
        _check(self.guidance in GUIDANCES, "guidance", self.guidance, " or ".join(GUIDANCES))
        _up_to(64, self, "heads", "window")
        _channels(self.stem_channels)

    @property
    def uses_landmarks(self) -> bool:
        """Whether the network is conditioned on drawn landmarks."""
        return self.guidance != "audio"

    @property
    def uses_audio(self) -> bool:
        """Whether the network is conditioned on speech features."""
        return self.guidance != "landmarks"


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How faces are drawn from noise."""

    sampler: str = "dpm++"
    """``ddpm``, ``ddim`` or ``dpm++`` (a second-order solver for few steps)."""
    steps: int = 2

    def __post_init__(self) -> None:
        _up_to(1000, self, "steps")
        _check(
            self.sampler in ("ddpm", "ddim", "dpm++"),
            "sampler",
            self.sampler,
            "ddpm, ddim or dpm++",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All networks of one avatar."""

    preset: str = "tiny"
    size_px: int = 256
    """Side of the crop that the networks see."""
    mask: str = "jaw"
    """What is made anew: ``jaw``, the lower face with its whole jaw line, or ``mouth``, a box that
    leaves the jaw line visible (an ablation: a jaw that is seen tells of the mouth)."""
    completion: CompletionConfig = field(default_factory=CompletionConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    base_model: str = ""
    """A folder or hub id in the diffusers layout whose ``vae`` and ``unet`` are taken as they are
    (their configuration then stands in place of ``autoencoder`` and ``prior``)."""

    def __post_init__(self) -> None:
        _check(self.mask in MASKS, "mask", self.mask, " or ".join(MASKS))
        is_size = 64 <= self.size_px <= MAX_SIZE_PX and self.size_px % 64 == 0
        _check(is_size, "size_px", self.size_px, f"a multiple of 64 up to {MAX_SIZE_PX}")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of training."""

    steps: int
    """0 leaves the stage's network as it begins: a decoder as the autoencoder has it."""
    batch: int
    learning_rate: float
    warmup_steps: int = 100
    final_rate: float = 0.05
    """The learning rate falls along a cosine to this share of its peak."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.999
    autocast: bool = True
    """bfloat16, where the whole training allows it: small layers gain nothing from it on a CPU."""
    validate_every: int = 250
    checkpoint_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        _check(self.steps >= 0, "steps", self.steps, "0 (as it begins) or more")
        _positive(
            self,
            "batch",
            "learning_rate",
            "validate_every",
            "checkpoint_every",
            "log_every",
        )
        _check(0 <= self.ema < 1, "ema", self.ema, "0 <= ema < 1")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All stages of training."""

    landmarks: StageConfig
    autoencoder: StageConfig
    prior: StageConfig
    synthesis: StageConfig
    decoder: StageConfig
    validation_clips: int = 4
    """Clips held out of training to watch it, a fifth of all at most; of fewer than five clips
    the ends are held out instead. 0: none, the last clip is watched and learned from."""
    span_frames: int = 32
    """Neighbouring frames in one example of landmark completion."""
    lips_weight: float = 3.0
    """Of the lips' opening beside Eq. 1, with own and with another's speech; 0: Eq. 1 alone."""
    mouth_weight: float = 4.0
    """Of the mouth in the loss of the synthesis; 1: Eq. 5 as printed, where skin counts as much."""
    completed_share: float = 0.0
    """Of the synthesis's examples whose landmarks are completed, as they are in use, by a fit that
    has not seen their clip, with lips as open as in the footage; the others are the footage's."""
    voices: int = 2
    """In how many other voices each clip's sound is heard as well; a dataset that is given has
    those that it was prepared with."""
    in_step: bool = True
    """Whether each clip's sound is first brought in step with its lips, up to half a second."""
    latent_stride: int = 2
    """Every how many frames latents are kept for the diffusion stages: neighbours differ little."""
    autocast: bool = True
    """Allow bfloat16 where the processor has fast instructions for it."""

    def __post_init__(self) -> None:
        _positive(self, "span_frames", "latent_stride", "mouth_weight")
        _check(0 <= self.voices <= 20, "voices", self.voices, "0 <= voices <= 20")
        share = self.completed_share
        _check(0 <= share <= 1, "completed_share", share, "0 <= completed_share <= 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `difftalker train` needs to know besides the footage."""

    model: ModelConfig
    training: TrainingConfig


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
                hears_opening=True,
            ),
            autoencoder=AutoencoderConfig(channels=(8, 16), latent_channels=4, groups=4),
            prior=PriorConfig(channels=(8, 16), groups=4, head_dim=8, context_dim=8),
            synthesis=SynthesisConfig(stem_channels=(4, 4, 8), heads=2, window=4),
            sampling=SamplingConfig(steps=2),
        ),
        training=TrainingConfig(
            landmarks=stage,
            autoencoder=stage,
            prior=stage,
            synthesis=stage,
            decoder=stage,
            validation_clips=1,
            span_frames=12,
            autocast=False,
        ),
    )


def tiny() -> Config:
    """The default: trains in under three hours and dubs in real time on a 2-core CPU."""
    return Config(
        model=ModelConfig(
            completion=CompletionConfig(hears_opening=True),
            synthesis=SynthesisConfig(guidance="both"),
        ),
        training=TrainingConfig(
            landmarks=StageConfig(
                steps=300, batch=6, learning_rate=1.5e-4, ema=0.99, autocast=False
            ),
            autoencoder=StageConfig(steps=1300, batch=16, learning_rate=6e-4, ema=0.99),
            prior=StageConfig(steps=1000, batch=32, learning_rate=5e-4, ema=0.995),
            synthesis=StageConfig(steps=900, batch=32, learning_rate=5e-4, ema=0.995),
            decoder=StageConfig(steps=600, batch=6, learning_rate=2e-4, ema=0.99),
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
            completion=CompletionConfig(audio_dim=64, hears_opening=True),
            autoencoder=AutoencoderConfig(channels=(64, 128)),
            prior=PriorConfig(channels=(64, 96, 128)),
            synthesis=SynthesisConfig(stem_channels=(16, 32, 48)),
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
            latent_stride=3,
        ),
    )


def base() -> Config:
    """About 80 million parameters, for one GPU."""
    return Config(
        model=ModelConfig(
            preset="base",
            completion=CompletionConfig(width=128, hears_opening=True),
            autoencoder=AutoencoderConfig(channels=(64, 128, 256), patch=2, layers=2),
            prior=PriorConfig(channels=(192, 320, 448), layers=2, head_dim=64, attention_levels=2),
            synthesis=SynthesisConfig(stem_channels=(32, 64, 128)),
            sampling=SamplingConfig(steps=10),
        ),
        training=TrainingConfig(
            landmarks=StageConfig(steps=6000, batch=32, learning_rate=5e-4),
            autoencoder=StageConfig(steps=30000, batch=32, learning_rate=3e-4),
            prior=StageConfig(steps=40000, batch=64, learning_rate=2e-4, ema=0.9995),
            synthesis=StageConfig(steps=40000, batch=64, learning_rate=1e-4, ema=0.9995),
            decoder=StageConfig(steps=10000, batch=16, learning_rate=1e-4),
        ),
    )


def sd15() -> Config:
    """The paper's scale: Stable Diffusion 1.5 as the prior, crops of 512 pixels."""
    return Config(
        model=ModelConfig(
            preset="sd15",
            size_px=512,
            completion=CompletionConfig(width=128, hears_opening=True),
            prior=PriorConfig(prediction="epsilon"),
            synthesis=SynthesisConfig(stem_channels=(16, 32, 96), heads=8),
            sampling=SamplingConfig(steps=20),
            base_model="stable-diffusion-v1-5/stable-diffusion-v1-5",
        ),
        training=TrainingConfig(
            landmarks=StageConfig(steps=6000, batch=32, learning_rate=5e-4),
            autoencoder=StageConfig(steps=1, batch=1, learning_rate=1e-5),
            prior=StageConfig(steps=1, batch=1, learning_rate=1e-5),
            synthesis=StageConfig(steps=60000, batch=8, learning_rate=1e-4, ema=0.9995),
            decoder=StageConfig(steps=10000, batch=4, learning_rate=5e-5),
        ),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "debug": debug,
    "half": half,
    "tiny": tiny,
    "base": base,
    "sd15": sd15,
}


def paper_completion(config: CompletionConfig) -> CompletionConfig:
    """The completion exactly as in Section 2.3: frame by frame, a contour that hears nothing."""
    return dataclasses.replace(
        config, neighbours=0, audio_moves_contour=False, least_squares=False, hears_opening=False
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
    training = dataclasses.replace(config.training, lips_weight=0.0)
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


C = TypeVar("C")


def from_dict(kind: type[C], values: Mapping[str, Any], where: str = "the configuration") -> C:
    """Build a config from JSON values, strictly.

    Raises:
        UsageError: a key is unknown or missing, or a value has the wrong type.
    """
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(values) - set(known)):
        raise UsageError(
            f"unknown key {unknown[0]!r:.80} in {where}", wanted=", ".join(sorted(known))
        )
    try:
        return kind(**{k: _value(hints[k], v, f"{where}.{k}") for k, v in values.items()})
    except TypeError as error:
        raise UsageError(f"{where} is incomplete: {error}") from error


def override(config: Config, settings: Mapping[str, str]) -> Config:
    """Replace single values: ``{"training.prior.steps": "200"}``.

    Raises:
        UsageError: the key is unknown, or the value has the wrong type.
    """
    for key, text in settings.items():
        config = _replaced(config, key.split("."), text, key)
    return config


def _replaced(config: Any, path: list[str], text: str, key: str) -> Any:
    name, *rest = path
    names = [f.name for f in dataclasses.fields(config)]
    if name not in names:
        raise UsageError(
            f"unknown configuration key {key!r}", wanted=f"at {name!r}: {', '.join(names)}"
        )
    old = getattr(config, name)
    if dataclasses.is_dataclass(old) != bool(rest):
        raise UsageError(
            f"the configuration key {key!r} does not name one value",
            wanted="a key such as training.prior.steps",
        )
    new = _replaced(old, rest, text, key) if rest else _parsed(old, text, key)
    return dataclasses.replace(config, **{name: new})


def _parsed(old: Any, text: str, key: str) -> Any:
    try:
        if isinstance(old, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(old, tuple):
            number = type(old[0]) if old else float
            return tuple(number(part) for part in text.split(",") if text)
        return type(old)(text)
    except (ValueError, KeyError) as error:
        kind = type(old).__name__
        raise UsageError(f"{key} = {text!r}", wanted=f"a value like {old!r} ({kind})") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} is {value!r:.80}", wanted="an object")
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if isinstance(hint, types.GenericAlias) and hint.__origin__ is tuple:
        part = hint.__args__[0]
        wanted = (int, float) if part is float else (part,)
        if isinstance(value, list | tuple) and all(type(v) in wanted for v in value):
            return tuple(part(v) for v in value)
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif type(value) is hint:
        return value
    raise UsageError(f"{where} is {value!r:.80}", wanted=f"a value of type {hint}")


def _check(ok: bool, name: str, found: object, wanted: str) -> None:
    if not ok:
        raise UsageError(f"{name} is {found!r:.80}", wanted=wanted)


def _positive(config: object, *names: str) -> None:
    for name in names:
        _check(getattr(config, name) > 0, name, getattr(config, name), "a positive number")


def _up_to(highest: int, config: object, *names: str) -> None:
    """Refuse what is not from 1 to ``highest``: a file's numbers decide what is allocated."""
    for name in names:
        value = getattr(config, name)
        _check(0 < value <= highest, name, value, f"1 to {highest}")


def _channels(channels: tuple[int, ...]) -> None:
    fits = 0 < len(channels) <= 8 and all(0 < one <= 4096 for one in channels)
    _check(fits, "channels", channels, "up to 8 numbers from 1 to 4096")
