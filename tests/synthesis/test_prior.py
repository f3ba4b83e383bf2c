"""The prior: its own, and one in the diffusers layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from difftalker.synthesis.prior import Prior
from difftalker.synthesis.region import box_mask
from difftalker.synthesis.sampling import sample
from helpers_networks import inputs, prior, rng


def test_the_prior_predicts_one_latent_for_each() -> None:
    noisy, _, steps, _ = inputs()
    out = prior()(noisy, steps)
    assert out.shape == noisy.shape
    assert not torch.equal(out, prior()(noisy, steps.flip(0)))


def test_a_base_model_may_bring_a_text_encoder(base_model: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = Path(shutil.copytree(base_model, tmp_path / "base"))
    (folder / "tokenizer").mkdir()
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    words = [*letters, "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=7)
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=7,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
        )
    )
    encoder.save_pretrained(folder / "text_encoder")
    prior = Prior.from_diffusers(folder)
    assert prior.config.context_tokens == 7
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    with torch.no_grad():
        wanted = encoder(torch.tensor([[start, *[end] * 6]])).last_hidden_state
    torch.testing.assert_close(prior.context, wanted)
    again = Prior(prior.config, 4, unet=prior.unet.config)
    again.load_state_dict(prior.state_dict())
    assert torch.equal(again.context, prior.context)


def test_an_epsilon_prior_is_sampled_by_region(base_model: Path) -> None:
    prior = Prior.from_diffusers(base_model)
    known, noise = torch.randn(2, 1, 4, 8, 8, generator=rng())
    mask = box_mask(torch.tensor([[32, 64, 8, 56]]), 8, 8)
    with torch.no_grad():
        made = sample(prior, known, mask, noise, sampler="ddim", steps=2, prediction="epsilon")
    inside = mask.bool().expand_as(made)
    assert torch.isfinite(made).all()
    assert torch.equal(made[~inside], known[~inside])
    assert not torch.equal(made[inside], noise[inside])
