"""Diffusion by region: pure functions of latents, masks and noise."""
