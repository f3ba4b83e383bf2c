"""The sizes of the networks, as frozen dataclasses; a config is checked at its birth."""

from __future__ import annotations

from dataclasses import dataclass, field

from difftalker.config import checks
from difftalker.config.training import TrainingConfig

DEFAULT_CRF = 14
"""x264's quality: here the structure of camera footage survives (SSIM 0.975; 0.966 at 18)."""

DEFAULT_FPS, MAX_FPS = 25.0, 120.0
"""Frames a second of videos that have no footage."""

MAX_SIZE_PX = 1024
"""The largest crop: a picture of so many pixels a side takes 16,384 latents."""

MASKS = ("jaw", "mouth")
"""What is made anew: the lower face with its jaw line, or the mouth alone."""
GUIDANCES = ("landmarks", "audio", "both")
"""What the synthesis is conditioned on."""
RENDERERS = ("diffusion", "light")
"""What generates faces: diffusion in a few steps, or the light network in one pass."""
FEATURE_DIMS = {
    "whisper-short": 384,
    "whisper": 384,
    "characters": 29,
    "mel": 80,
    "whisper-live": 384,
    "mel-live": 80,
}
"""Width of each kind of speech features, by the names of ``speech.registry.ENCODERS``."""
FEATURE_OPTIONS = {
    "whisper": "whisper-short",
    "whisper-short": "whisper-short",
    "whisper-padded": "whisper",
    "characters": "characters",
    "mel": "mel",
    "whisper-live": "whisper-live",
    "mel-live": "mel-live",
}
"""What ``--features`` may say: Whisper's own windows are for comparison, so its name is longer."""


@dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """LF-Trans, BM-Trans, AM-Trans and the audio network (Sections 2.2 and 2.3)."""

    features: str = "whisper-short"
    """Speech features, a name of :data:`difftalker.speech.registry.ENCODERS`."""
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
    """Whether audio offsets the lower contour too; the paper's LF-Trans takes no audio."""
    audio_offsets: bool = True
    """AM-Trans; False is the paper's ablation, with audio into BM-Trans instead."""
    dropout: float = 0.1
    least_squares: bool = True
    """Whether the transformers begin at the least-squares fit of the points to upper points and
    speech, in place of the mean face."""
    opening_from_speech: bool = False
    """Whether a network beside the least squares predicts the opening of the lips from speech; off
    in avatars that have no such network."""
    hold_in_silence: bool = True
    """Whether the mouth is held still where nothing is said (``landmarks.silence_hold``)."""

    def __post_init__(self) -> None:
        checks.up_to(4096, self, "feature_dim", "width", "audio_dim")
        checks.up_to(256, self, "window", "heads", "layers")
        checks.check(0 <= self.neighbours <= 64, "neighbours", self.neighbours, "0 to 64")
        checks.check(
            self.width % self.heads == 0, "width", self.width, f"a multiple of {self.heads}"
        )
        checks.check(0 <= self.dropout < 1, "dropout", self.dropout, "0 <= dropout < 1")


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

    def __post_init__(self) -> None:
        checks.up_to(64, self, "layers", "patch", "latent_channels")
        checks.up_to(4096, self, "groups")
        checks.channels(self.channels)
        down = self.patch * 2 ** (len(self.channels) - 1)
        checks.check(
            down == 8, "patch", self.patch, "8 pixels a latent: patch x 2^(levels - 1) = 8"
        )


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
        checks.up_to(64, self, "layers")
        checks.up_to(4096, self, "groups", "head_dim", "context_dim", "context_tokens")
        checks.up_to(10_000, self, "timesteps")
        checks.channels(self.channels)
        levels = len(self.channels)
        checks.check(
            0 <= self.attention_levels <= levels,
            "attention_levels",
            self.attention_levels,
            f"0 to {levels}",
        )
        checks.check(
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
        checks.check(len(self.stem_channels) == 3, "stem_channels", self.stem_channels, "3 numbers")
        checks.check(self.guidance in GUIDANCES, "guidance", self.guidance, " or ".join(GUIDANCES))
        checks.up_to(64, self, "heads", "window")
        checks.channels(self.stem_channels)

    @property
    def uses_landmarks(self) -> bool:
        """Whether the network is conditioned on drawn landmarks."""
        return self.guidance != "audio"

    @property
    def uses_audio(self) -> bool:
        """Whether the network is conditioned on speech features."""
        return self.guidance != "landmarks"


@dataclass(frozen=True, kw_only=True)
class LightConfig:
    """The light network: one pass in place of the diffusion (``synthesis.light``)."""

    channels: tuple[int, ...] = (48, 96, 128, 128)
    """Widths of the encoder of the picture and of the decoder, finest level first."""
    landmark_channels: tuple[int, ...] = (24, 48, 64, 64)
    """Widths of the encoder of the drawn landmarks."""
    patch: int = 4
    """Pixels a side that go into one position before the first convolution."""
    fine_blocks: int = 2
    """Residual blocks at the finest level, behind all others."""
    speech_dim: int = 128
    normalised: bool = False
    """Whether colours are relative to those of the skin in sight: light and skin of a face that
    was never seen need not be learned then."""

    def __post_init__(self) -> None:
        checks.channels(self.channels)
        checks.channels(self.landmark_channels)
        checks.up_to(16, self, "fine_blocks")
        checks.up_to(4096, self, "speech_dim")
        levels = len(self.landmark_channels)
        fits = len(self.channels) == levels >= 3
        checks.check(fits, "channels", self.channels, f"{levels} numbers, 3 or more")
        checks.check(self.patch in (2, 4, 6, 8), "patch", self.patch, "2, 4, 6 or 8")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How faces are drawn from noise."""

    sampler: str = "dpm++"
    """``ddpm``, ``ddim`` or ``dpm++`` (a second-order solver for few steps)."""
    steps: int = 2

    def __post_init__(self) -> None:
        checks.up_to(1000, self, "steps")
        checks.check(
            self.sampler in ("ddpm", "ddim", "dpm++"),
            "sampler",
            self.sampler,
            "ddpm, ddim or dpm++",
        )


def _live_completion() -> CompletionConfig:
    """Completion of frames as they come: no later frame is known, and little later sound."""
    return CompletionConfig(
        features="whisper-live", neighbours=0, opening_from_speech=True, hold_in_silence=False
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All networks of one avatar."""

    preset: str = "tiny"
    size_px: int = 256
    """Side of the crop that the networks see."""
    mask: str = "jaw"
    """What is made anew: ``jaw``, the lower face with its whole jaw line, or ``mouth``, a box that
    leaves the jaw line visible (an ablation: a visible jaw shows how far the mouth is open)."""
    completion: CompletionConfig = field(default_factory=CompletionConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    light: LightConfig = field(default_factory=LightConfig)
    live: CompletionConfig = field(default_factory=_live_completion)
    """The completion of live sessions; its frames have no neighbours."""
    base_model: str = ""
    """A folder or hub id in the diffusers layout whose ``vae`` and ``unet`` are taken as they are
    (their configuration then stands in place of ``autoencoder`` and ``prior``)."""

    def __post_init__(self) -> None:
        checks.check(self.mask in MASKS, "mask", self.mask, " or ".join(MASKS))
        is_size = 64 <= self.size_px <= MAX_SIZE_PX and self.size_px % 64 == 0
        checks.check(is_size, "size_px", self.size_px, f"a multiple of 64 up to {MAX_SIZE_PX}")
        checks.check(
            self.live.neighbours == 0, "live.neighbours", self.live.neighbours, "0: none is known"
        )
        step = self.light.patch * 2 ** (len(self.light.channels) - 1)
        fits = self.size_px % step == 0
        checks.check(fits, "size_px", self.size_px, f"a multiple of {step}, as light needs")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `difftalker train` needs to know besides the footage."""

    model: ModelConfig
    training: TrainingConfig
