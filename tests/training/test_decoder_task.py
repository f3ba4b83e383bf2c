"""The last stage: the decoder alone, its detail, and openings that are measured."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difftalker.metrics import detail_energy
from difftalker.synthesis.autoencoder import high_pass, to_images, to_pixels
from difftalker.training import calibrate
from difftalker.training.calibrate import MOST_DETAIL
from difftalker.training.decoder_task import DecoderTask
from difftalker.training.stages import TABLE
from helpers_training import Finished, part_of, run_at


def test_the_last_stage_tunes_the_decoder_alone(finished: Finished) -> None:
    run = run_at(finished.dataset, finished.folder)
    before, after = (run.trainer(s).task.model.state_dict() for s in ("autoencoder", "decoder"))
    tuned = part_of(after, "autoencoder")
    changed = {k for k, v in before.items() if not torch.equal(v, tuned[k])} - {"mean", "std"}
    assert changed
    assert all(k.startswith(("kl.decoder.", "kl.post_quant_conv.")) for k in changed)
    assert all(
        torch.equal(v, tuned[k]) for k, v in run.sources.networks().autoencoder.state_dict().items()
    )


@pytest.mark.parametrize(
    ("blur", "least", "most"), [(0.0, 0.0, 0.1), (0.5, 0.2, 0.9), (3.0, 0.99, 1.0)]
)
def test_pictures_are_given_the_detail_that_they_lack(
    finished: Finished, blur: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = run_at(finished.dataset, finished.folder).trainer("decoder").task
    assert isinstance(task, DecoderTask)
    rng = np.random.default_rng(0)
    true = cv2.GaussianBlur(rng.integers(60, 200, (64, 64, 12), np.uint8), (0, 0), 0.7)
    soft = cv2.GaussianBlur(true, (0, 0), blur) if blur else true
    pair = [torch.from_numpy(np.stack(np.split(one, 4, axis=2))) for one in (true, soft)]
    boxes = torch.tensor([[24, 64, 8, 56]] * 4, dtype=torch.int32)
    monkeypatch.setattr(task, "_watched", lambda: (*pair, boxes))
    monkeypatch.setattr(task._data.validation[0], "side_px", 64.0)
    detail = task.detail()
    assert least <= detail <= most
    pixels = to_pixels(pair[1])
    shown = to_images(pixels + detail * high_pass(pixels)).numpy()
    lower = np.zeros((64, 64), bool)
    lower[24:60, 8:56] = True
    wanted, found = (
        np.mean([detail_energy(one, lower) for one in ones]) for ones in (pair[0].numpy(), shown)
    )
    if detail < 0.99 * MOST_DETAIL:
        assert found == pytest.approx(wanted, rel=0.1)
    else:
        assert found < wanted


def test_the_detail_that_is_measured_goes_into_the_avatar(finished: Finished) -> None:
    run = run_at(finished.dataset, finished.folder)
    task = run.trainer("decoder").task
    assert isinstance(task, DecoderTask)
    assert run.sources.calibration().detail == pytest.approx(task.detail(), abs=1e-6)


def test_openings_that_are_measured_go_into_the_avatar(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_at(finished.dataset, finished.folder)
    # No face is found on drawings, and so nothing is said.
    assert run.sources.calibration().openings == ()
    true = itertools.cycle([True, False])

    def found(pictures: Sequence[NDArray[np.uint8]], times_s: NDArray[np.float64]) -> Any:
        assert pictures[0].shape == (64, 64, 3)
        assert len(pictures) == len(times_s)
        return np.linspace(0, 0.3, 200) - (0 if next(true) else 0.01)

    monkeypatch.setattr(calibrate, "openings_found", found)
    task = run.trainer("decoder").task
    openings = TABLE["decoder"].artefact(task, run.sources).calibration.openings
    assert openings == pytest.approx([0.01] * 8, abs=2e-3)
