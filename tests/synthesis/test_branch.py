"""The branch: a copy of the prior's encoder, with a map for every level."""

from __future__ import annotations

import torch

from difftalker.synthesis.prior import UNetEncoder
from helpers_networks import DEBUG, inputs, synthesis


def test_the_branch_is_a_copy_of_the_priors_encoder() -> None:
    net = synthesis(stir=False)
    theirs = UNetEncoder(net.prior.unet)
    noisy, _, _, _ = inputs()
    steps, context = torch.zeros(2), net.prior.context.expand(2, -1, -1)
    with torch.no_grad():
        ours = net.branch.encoder(noisy, steps, context)
        wanted = theirs(noisy, steps, context)
    assert torch.equal(ours.middle, wanted.middle)
    assert all(torch.equal(a, b) for a, b in zip(ours.skips, wanted.skips, strict=True))
    own, base = dict(net.branch.encoder.named_parameters()), dict(theirs.named_parameters())
    assert own.keys() == base.keys()
    assert all(own[k].data_ptr() != base[k].data_ptr() for k in own)
    assert all(p.requires_grad for p in own.values())


def test_the_branch_has_a_map_for_every_level() -> None:
    net = synthesis(stir=True)
    _, known, _, maps = inputs()
    context = net.prior.context.expand(2, -1, -1)
    sizes = [(m.shape[1], m.shape[2], m.shape[3]) for m in net.branch(maps, known, context)]
    first, second = DEBUG.prior.channels
    assert sizes == [(first, 8, 8), (second, 4, 4)]
