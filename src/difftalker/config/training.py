"""How the networks are trained: stages, and what their examples and losses are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_type_hints

from difftalker.config import checks

OPTIMIZERS = ("adamw", "adam")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of training."""

    steps: int
    """0 leaves the stage's network as it begins: a decoder as the autoencoder has it."""
    minutes: float = 0.0
    """The stage ends after so long, if its steps take longer, and a cosine falls with the time.
    0: after its steps. The same steps are not taken twice then."""
    batch: int
    learning_rate: float
    parts: int = 1
    """In how many parts a batch is learned from, one after the other: each needs so many times less
    memory. Several processes share them, and make as many as they are where there are fewer."""
    recompute: bool = False
    """Compute features within blocks again for the gradients in place of keeping them: a third more
    time, less memory."""
    optimizer: str = "adamw"
    """``adamw``, or ``adam`` as in the paper (Section 3.2)."""
    betas: tuple[float, ...] = (0.9, 0.99)
    """Decay of the optimizer's first and second moment."""
    weight_decay: float = 0.01
    schedule: str = "cosine"
    """``cosine``: the learning rate falls to ``final_rate``; ``constant``: it stays."""
    final_rate: float = 0.05
    """Share of the peak at which a cosine ends."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises; 0: it begins at its peak."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; 0: no limit."""
    ema: float = 0.999
    """Decay of the average of the weights; 0: no averaging, the last weights count."""
    autocast: bool = True
    """bfloat16, where the whole training allows it: small layers gain nothing from it on a CPU."""
    validate_every: int = 250
    checkpoint_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        checks.check(self.steps >= 0, "steps", self.steps, "0 (as it begins) or more")
        checks.not_negative(self, "minutes")
        checks.positive(
            self,
            "batch",
            "parts",
            "learning_rate",
            "validate_every",
            "checkpoint_every",
            "log_every",
        )
        checks.check(0 <= self.ema < 1, "ema", self.ema, "0 <= ema < 1")
        checks.check(self.clip_norm >= 0, "clip_norm", self.clip_norm, "0 (no limit) or more")
        known = " or ".join(OPTIMIZERS)
        checks.check(self.optimizer in OPTIMIZERS, "optimizer", self.optimizer, known)
        known = " or ".join(SCHEDULES)
        checks.check(self.schedule in SCHEDULES, "schedule", self.schedule, known)
        fit = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        checks.check(fit, "betas", self.betas, "two numbers from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class LandmarkRecipe:
    """Examples and loss of the stage ``landmarks``; with all 0 the loss is Eq. 1 alone."""

    base_weight: float = 0.3
    """Weight of the points before audio: trained on the sum alone they drift, and the offsets of
    AM-Trans undo it."""
    rotation_rad: float = 0.03
    """Standard deviation of the rotation of examples."""
    scaling: float = 0.03
    """Standard deviation of the change of their size."""
    shift_crop: float = 0.02
    """Standard deviation of their shift, crop units."""

    def __post_init__(self) -> None:
        checks.not_negative(self, "base_weight", "rotation_rad", "scaling", "shift_crop")


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe:
    """Examples and loss of the stage ``autoencoder``."""

    kl_weight: float = 1e-3
    """Weight of the divergence: enough to keep the latents smooth, too little to blur."""
    masked_share: float = 0.5
    """Share of examples put together by region as in use, so that the decoder learns the seam."""
    mirrored_share: float = 0.5
    """Share of examples that are mirrored."""

    def __post_init__(self) -> None:
        checks.not_negative(self, "kl_weight")
        checks.shares(self, "masked_share", "mirrored_share")


@dataclass(frozen=True, kw_only=True)
class PriorRecipe:
    """Examples of the stage ``prior``."""

    whole_share: float = 1 / 3
    """Share of examples with noise in the whole face (Eqs. 2 and 3); the others have it in the
    lower face alone (Eqs. 4 and 5). 1: as Stable Diffusion was trained."""

    def __post_init__(self) -> None:
        checks.shares(self, "whole_share")


@dataclass(frozen=True, kw_only=True)
class SynthesisRecipe:
    """Examples of the stage ``synthesis``; with all shares and jitters 0 they are the paper's."""

    sampler_share: float = 0.5
    """Share of examples at the timesteps at which the sampler calls the network; the others are
    drawn uniformly from all."""
    whole_share: float = 0.12
    """Share of examples, of those with their own upper face, in which the whole face is made: a
    video without footage needs it."""
    other_upper_share: float = 0.5
    """Share of examples whose upper face is of another moment of the clip, as in dubbed footage:
    cheeks show the mouth that was there."""
    alike_crop: float = 0.008
    """Mean distance of the upper points, crop units, up to which another upper face is taken."""
    other_speech_share: float = 0.3
    """Share of these with the speech of the other moment too: the opening of the lips is to follow
    the landmarks."""
    no_speech_share: float = 0.15
    """Share of examples, of those that use landmarks and audio, without speech."""
    speech_jitter: float = 0.3
    """Noise on speech beside landmarks, in standard deviations of each feature."""
    point_jitter: float = 0.0015
    """Noise on drawn landmarks, crop units: in use they are predicted, not detected."""

    def __post_init__(self) -> None:
        checks.shares(
            self,
            "sampler_share",
            "whole_share",
            "other_upper_share",
            "other_speech_share",
            "no_speech_share",
        )
        checks.not_negative(self, "alike_crop", "speech_jitter", "point_jitter")


@dataclass(frozen=True, kw_only=True)
class PictureRecipe:
    """The loss of pictures, in the stages ``decoder`` and ``light``."""

    margin_px: int = 16
    """How far around the mask pictures are compared, pixels: the join is learned with it."""
    mouth_weight: float = 1.0
    """Weight of the mouth, in weights of all that is masked."""
    detail_weight: float = 16.0
    """Weight of the amount of fine detail in each place: a mean of pictures has too little."""
    feature_weight: float = 4.0
    """Weight of the distance of the critic's features."""
    critic_share: float = 2.0
    """Gradient of the critic's loss at the last layer, in gradients of the pictures' distance
    (Esser et al., "Taming Transformers for High-Resolution Image Synthesis", 2021, Eq. 7)."""

    def __post_init__(self) -> None:
        checks.not_negative(self, "margin_px", "mouth_weight", "detail_weight")
        checks.not_negative(self, "feature_weight", "critic_share")


@dataclass(frozen=True, kw_only=True)
class DecoderRecipe(PictureRecipe):
    """Examples and loss of the stage ``decoder``, which the paper does not have."""

    stride: int = 4
    """How many times fewer frames than the diffusion stages have: each has to be sampled first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive(self, "stride")


@dataclass(frozen=True, kw_only=True)
class LightRecipe(PictureRecipe):
    """Examples and loss of the stage ``light``, which the paper does not have.

    Its landmarks and speech are drawn as :class:`SynthesisRecipe` says.
    """

    critic_share: float = 0.5
    """As in the decoder, but of a network that begins at random."""
    taught_stride: int = 2
    """How many times fewer examples are the diffusion's pictures, under upper faces of another
    moment; the others are the footage's, under their own."""
    whole_share: float = 0.12
    """Share of batches in which the whole face is made: a video without footage needs it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive(self, "taught_stride")
        checks.shares(self, "whole_share")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All stages of training, in their order, and what their examples and losses are."""

    landmarks: StageConfig
    autoencoder: StageConfig
    prior: StageConfig
    synthesis: StageConfig
    decoder: StageConfig
    light: StageConfig
    live: StageConfig
    landmark_recipe: LandmarkRecipe = field(default_factory=LandmarkRecipe)
    autoencoder_recipe: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    prior_recipe: PriorRecipe = field(default_factory=PriorRecipe)
    synthesis_recipe: SynthesisRecipe = field(default_factory=SynthesisRecipe)
    decoder_recipe: DecoderRecipe = field(default_factory=DecoderRecipe)
    light_recipe: LightRecipe = field(default_factory=LightRecipe)
    diffusion: bool = True
    """Whether the avatar has the diffusion; without, the light network renders alone."""
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
    """How many voice conversions of each clip's sound are learned from as well; a dataset that is
    given has those that it was prepared with."""
    align_sound: bool = True
    """Whether each clip's sound is first shifted to fit its lips, by up to half a second."""
    latent_stride: int = 2
    """Every how many frames latents are kept for the diffusion stages: neighbours differ little."""
    autocast: bool = True
    """Allow bfloat16 where the processor has fast instructions for it."""

    def __post_init__(self) -> None:
        checks.positive(self, "span_frames", "latent_stride", "mouth_weight")
        checks.check(0 <= self.voices <= 20, "voices", self.voices, "0 <= voices <= 20")
        checks.shares(self, "completed_share")
        checks.not_negative(self, "lips_weight")


STAGES = tuple(name for name, kind in get_type_hints(TrainingConfig).items() if kind is StageConfig)
"""The stages of training, in order: those fields of ``TrainingConfig``."""
