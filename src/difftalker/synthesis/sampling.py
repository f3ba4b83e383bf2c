"""Sampling: the lower face is denoised step by step, while the upper face stays clean (Eq. 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from difftalker.errors import UsageError
from difftalker.synthesis.region import keep_upper

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Noisy latents (B, C, H, W) and timesteps (B,) -> the network's prediction."""

_BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
"""Stable Diffusion's noise schedule (Rombach et al., 2022)."""


def scheduler(name: str, prediction: str, timesteps: int = 1000) -> Any:
    """A diffusers scheduler: ``ddpm``, ``ddim`` or ``dpm++``.

    v-prediction goes with noise that ends at zero signal and steps counted from the end
    (Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024).

    Raises:
        UsageError: there is no such sampler.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "ddpm": (DDPMScheduler, {"clip_sample": False}),
        "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True}),
        "dpm++": (
            DPMSolverMultistepScheduler,
            {"algorithm_type": "dpmsolver++", "solver_order": 2, "lower_order_final": True},
        ),
    }
    if name not in kinds:
        raise UsageError(f"no sampler is called {name!r}", wanted=" or ".join(kinds))
    kind, options = kinds[name]
    return kind(
        num_train_timesteps=timesteps,
        prediction_type=prediction,
        rescale_betas_zero_snr=prediction == "v_prediction",
        timestep_spacing="trailing",
        **_BETAS,
        **options,
    )


def alpha_bars(prediction: str, timesteps: int = 1000) -> Tensor:
    """(timesteps,): abar_t, the share of signal at each timestep (Eq. 2)."""
    bars: Tensor = scheduler("ddpm", prediction, timesteps).alphas_cumprod.float()
    return bars


def timesteps_of(sampler: str, steps: int, prediction: str, timesteps: int = 1000) -> Tensor:
    """(steps,) integers, falling: the timesteps at which :func:`sample` calls the network."""
    solver = scheduler(sampler, prediction, timesteps)
    solver.set_timesteps(steps)
    asked: Tensor = solver.timesteps.long()
    return asked


def sample(
    denoise: Denoise,
    clean: Tensor,
    mask: Tensor,
    noise: Tensor,
    *,
    sampler: str,
    steps: int,
    prediction: str,
    timesteps: int = 1000,
    seed: int = 0,
) -> Tensor:
    """Sample latents (B, C, H, W): the lower face from ``noise``, the upper face is ``clean``.

    ``mask`` (B, 1, H, W) is 1 where the face is generated; all ones generate the whole picture.
    ``ddpm`` adds noise at every step: the same to all of the batch, drawn from ``seed``.

    Raises:
        UsageError: there is no such sampler.
    """
    solver = scheduler(sampler, prediction, timesteps)
    solver.set_timesteps(steps, device=clean.device)
    latents = keep_upper(noise * solver.init_noise_sigma, clean, mask)
    generators = [torch.Generator().manual_seed(seed + 1) for _ in range(len(clean))]
    options = {"generator": generators} if sampler == "ddpm" else {}
    for t in solver.timesteps:
        predicted = denoise(latents, t.expand(len(latents)))
        stepped = solver.step(predicted.float(), t, latents, **options).prev_sample
        latents = keep_upper(stepped, clean, mask)
    return latents
