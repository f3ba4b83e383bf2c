"""How the networks are trained: stages, and what their examples and losses are."""

from __future__ import annotations

from dataclasses import dataclass

from difftalker.config import checks

STAGES = ("landmarks", "autoencoder", "prior", "synthesis", "decoder")


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
        checks.check(self.steps >= 0, "steps", self.steps, "0 (as it begins) or more")
        checks.positive(
            self,
            "batch",
            "learning_rate",
            "validate_every",
            "checkpoint_every",
            "log_every",
        )
        checks.check(0 <= self.ema < 1, "ema", self.ema, "0 <= ema < 1")


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
    """Weight of the lips' opening beside Eq. 1, with own and other speech; 0: Eq. 1 alone."""
    mouth_weight: float = 4.0
    """Weight of the mouth in the loss of the synthesis; 1: Eq. 5 as printed."""
    completed_share: float = 0.0
    """Share of the synthesis's examples with completed landmarks, as in use, from a fit to other
    clips, with lips as open as in the footage; the others have the footage's landmarks."""
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
        checks.positive(self, "span_frames", "latent_stride", "mouth_weight")
        checks.check(0 <= self.voices <= 20, "voices", self.voices, "0 <= voices <= 20")
        share = self.completed_share
        checks.check(0 <= share <= 1, "completed_share", share, "0 <= completed_share <= 1")
