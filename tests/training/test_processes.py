"""Several processes that train together take the steps of one."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch

from difftalker import config as configs
from difftalker.config import STAGES
from difftalker.errors import TrainingError
from difftalker.training import processes
from difftalker.training.options import TrainOptions
from difftalker.training.run import Run
from difftalker.training.task import recompute
from helpers_networks import inputs, synthesis
from helpers_training import WARM, checkpoint_of, log_of

CHOSEN = ("landmarks", "autoencoder", "prior", "synthesis")
STEPS = 20


def train(dataset: Path, folder: Path, parts: int, stop_at: int = 0) -> None:
    """Train some stages at debug size, in this process or with those beside it."""
    torch.set_num_threads(1)
    config = configs.override(
        configs.debug(),
        {
            f"training.{stage}.{name}": str(value)
            for stage in STAGES
            for name, value in (("steps", STEPS), ("parts", parts), ("batch", 4))
        },
    )
    with processes.joined("cpu"):
        with processes.first_alone():
            run = Run(config, TrainOptions(dataset=dataset, run=folder, stages=CHOSEN))
        if stop_at:
            run.train(cancel=lambda: True)
        else:
            run.train()


def together(count: int, dataset: Path, folder: Path, parts: int = 1, stop_at: int = 0) -> None:
    """``train`` in processes as ``torchrun`` starts them."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WARM))
    ranks = [
        context.Process(target=_rank, args=(rank, count, port, dataset, folder, parts, stop_at))
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
        process.kill()
        assert process.exitcode == (1 if stop_at else 0)


def _rank(rank: int, count: int, port: int, *words: object) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in place.items()})
    train(*words)  # type: ignore[arg-type]


def losses(folder: Path, stage: str) -> list[float]:
    return [line["loss"] for line in log_of(folder / stage) if "loss" in line]


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, each batch in two parts; not to be written to."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(dataset, folder, parts=2)
    return folder


def test_two_processes_take_the_steps_of_one(dataset: Path, alone: Path, tmp_path: Path) -> None:
    together(2, dataset, tmp_path / "run")
    for stage in CHOSEN:
        assert len(losses(alone, stage)) == STEPS
        assert losses(tmp_path / "run", stage) == pytest.approx(losses(alone, stage), abs=1e-4)
        one, other = (checkpoint_of(folder / stage) for folder in (alone, tmp_path / "run"))
        assert one[0].keys() == other[0].keys(), "checkpoints know no ranks"
        assert one[1]["parts"] == other[1]["parts"] == 2
        for name, tensor in one[0].items():
            torch.testing.assert_close(tensor, other[0][name], atol=1e-3, rtol=1e-3)


def test_a_run_goes_on_with_another_number_of_processes(
    dataset: Path, alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    together(2, dataset, folder, stop_at=1)
    assert checkpoint_of(folder / "landmarks")[1]["step"] == 1
    train(dataset, folder, parts=1)
    for stage in ("landmarks",):
        assert losses(folder, stage) == pytest.approx(losses(alone, stage), abs=1e-4)


def test_a_batch_has_no_more_parts_than_examples(dataset: Path, tmp_path: Path) -> None:
    config = configs.override(configs.debug(), {"training.landmarks.parts": "3"})
    run = Run(config, TrainOptions(dataset=dataset, run=tmp_path / "run", stages=("landmarks",)))
    with pytest.raises(TrainingError, match="batch of 2 in 3 parts"):
        run.trainer("landmarks")


def kept_bytes(again: bool) -> tuple[int, dict[str, torch.Tensor]]:
    """Bytes that a pass of the synthesis keeps for its gradients, and these."""
    net = synthesis(stir=True).train()
    if again:
        recompute(net)
    noisy, known, steps, maps = inputs()
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = net(noisy, steps, net.guide(known, maps=maps)).square().mean()
    loss.backward()
    return sum(sizes.values()), {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def test_recomputing_keeps_less_and_gives_the_same_gradients() -> None:
    (usual, wanted), (less, found) = kept_bytes(again=False), kept_bytes(again=True)
    assert less < 0.8 * usual
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient)
