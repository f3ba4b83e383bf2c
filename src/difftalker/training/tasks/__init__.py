"""What is learned in the first four stages, and by which loss."""

from difftalker.training.tasks.autoencoder import (
    AutoencoderTask,
    gradient_error,
    mouth_mask,
    psnr,
)
from difftalker.training.tasks.diffusion import PriorTask
from difftalker.training.tasks.landmarks import LandmarkTask
from difftalker.training.tasks.synthesis import SynthesisTask

__all__ = [
    "AutoencoderTask",
    "LandmarkTask",
    "PriorTask",
    "SynthesisTask",
    "gradient_error",
    "mouth_mask",
    "psnr",
]
