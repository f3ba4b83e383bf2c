"""Perceptual distances: the network against its definition, weights, and the judge."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.errors import AssetError
from difftalker.evaluation.judges.perceptual import PerceptualJudge
from difftalker.experts.lpips import CHANNELS, PerceptualNet, _halved, load_lpips, load_st_lpips
from difftalker.store import assets

Image = NDArray[np.uint8]


def torchvision_alexnet() -> nn.Sequential:
    """The convolutions of torchvision's AlexNet, at the places that its file names."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def write_weights(folder: Path) -> tuple[Path, Path]:
    """Files in the layouts of torchvision's AlexNet, its classifier too, and of LPIPS' layers."""
    alexnet, linear = folder / "alexnet.pth", folder / "linear.pth"
    convolutions = torchvision_alexnet().state_dict()
    state = {f"features.{name}": tensor for name, tensor in convolutions.items()}
    torch.save({**state, "classifier.1.bias": torch.zeros(4096)}, alexnet)
    torch.save(
        {
            f"lin{i}.model.1.weight": torch.rand(1, channels, 1, 1)
            for i, channels in enumerate(CHANNELS)
        },
        linear,
    )
    return alexnet, linear


def test_lpips_is_that_of_its_definition(tmp_path: Path) -> None:
    """Equation 1 of the paper, place by place, over torchvision's layers."""
    alexnet, linear = write_weights(tmp_path)
    weights = torch.load(linear, weights_only=True)
    generator = torch.Generator().manual_seed(1)
    a, b = (2 * torch.rand(2, 3, 64, 70, generator=generator) - 1 for _ in range(2))
    shift = torch.tensor([-0.03, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.45])[:, None, None]
    expected, x, y, layer = torch.zeros(2), (a - shift) / scale, (b - shift) / scale, 0
    with torch.no_grad():
        for part in torchvision_alexnet():
            x, y = part(x), part(y)
            if isinstance(part, nn.ReLU):
                gaps = (nnf.normalize(x, dim=1) - nnf.normalize(y, dim=1)) ** 2
                expected += (weights[f"lin{layer}.model.1.weight"] * gaps).sum(1).mean((1, 2))
                layer += 1
        found = load_lpips(alexnet, linear)(a, b)
    assert layer == 5
    torch.testing.assert_close(found, expected)


def shift_tolerant() -> PerceptualNet:
    torch.manual_seed(0)
    net = PerceptualNet(shift_tolerant=True)
    for weight in net.weights:
        nn.init.constant_(weight, 1)
    return net.eval()


def distances(net: PerceptualNet, a: Tensor, *others: Tensor) -> list[float]:
    with torch.no_grad():
        return [float(net(a, b)) for b in others]


@pytest.mark.parametrize("tolerant", [False, True])
def test_equal_pictures_are_at_no_distance_and_order_does_not_matter(tolerant: bool) -> None:
    net = shift_tolerant() if tolerant else PerceptualNet(shift_tolerant=False)
    nn.init.constant_(net.weights[0], 1)
    generator = torch.Generator().manual_seed(1)
    a, b = (2 * torch.rand(1, 3, 32, 40, generator=generator) - 1 for _ in range(2))
    [same, there], [back] = distances(net, a, a, b), distances(net, b, a)
    assert same == 0
    assert there == pytest.approx(back, rel=1e-5)
    assert there > 0.01


def test_blurred_halving_of_a_ramp_is_every_second_place() -> None:
    """[1 2 1] / 4 leaves a ramp as it is; the border is mirrored by two before."""
    ramp = torch.arange(8.0).expand(1, 2, 8, 8)
    # Mirrored: 2 1 0 1 2 3 4 5 6 7 6 5, of which the second, fourth, ... with their neighbours.
    assert _halved(ramp)[0, 1, 2].tolist() == pytest.approx([1, 1, 3, 5, (6 + 2 * 7 + 6) / 4])


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    alexnet, linear = write_weights(tmp_path)
    with pytest.raises(AssetError, match=r"features\.0\.weight is missing"):
        load_lpips(linear, linear)
    with pytest.raises(AssetError, match=r"net\.slice1\.0\.weight is missing"):
        load_st_lpips(alexnet)
    with pytest.raises(AssetError, match="there is no file"):
        load_lpips(tmp_path / "absent.pth", linear)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(AssetError, match="cannot be read as weights"):
        load_st_lpips(tmp_path / "text.pth")


def test_without_weights_a_note_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFTALKER_CACHE", str(tmp_path))
    judge = PerceptualJudge()
    assert "python -m difftalker.store.assets st_lpips" in judge.facts["note"]


@pytest.fixture(scope="module")
def fetched() -> PerceptualJudge:
    if not assets.is_cached("st_lpips"):
        pytest.skip(f"ST-LPIPS was not fetched (`{assets.command('st_lpips')}`)")
    return PerceptualJudge()


def test_fetched_weights_order_what_people_see(fetched: PerceptualJudge) -> None:
    face: Image = np.ascontiguousarray(
        data.astronaut()[80:208, 160:288]  # type: ignore[no-untyped-call]
    )
    shifted = np.roll(face, 1, axis=1)
    slightly, much = (cv2.GaussianBlur(face, (0, 0), sigma) for sigma in (1, 4))
    found = [fetched.distance(face, np.asarray(b)) for b in (face, slightly, much)]
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert 0.001 < found[1] < 0.5 * found[2]
    # A shift by a pixel is hardly seen, though it changes more numbers than the slight blur.
    assert fetched.distance(face, shifted) < 0.5 * found[1]
