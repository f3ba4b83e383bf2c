"""The training loop: order, rates and averages, and what stops it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from difftalker import config as configs
from difftalker.config import StageConfig
from difftalker.core.jobs import Event
from difftalker.errors import TrainingError
from difftalker.training import batches
from difftalker.training.batches import BATCHES_AHEAD, Batches
from difftalker.training.checkpoint import load_checkpoint
from difftalker.training.options import TrainOptions
from difftalker.training.run import Run
from difftalker.training.trainer import Trainer
from helpers import write_dataset
from helpers_training import STEPS, Finished, checkpoint_of, log_of, run_at, same


def test_a_line_of_the_log_cut_off_by_a_kill_is_forgotten(
    finished: Finished, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    with (folder / "landmarks" / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "loss": 1.0}\n{"step": 8, "lo')
    run_at(finished.dataset, folder).trainer("landmarks")
    assert log_of(folder / "landmarks") == log_of(finished.folder / "landmarks")


def test_a_loss_that_is_not_finite_stops_with_step_and_clips(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data")
    features = dataset / "clips" / "b" / "mel.npy"
    np.save(features, np.full_like(np.load(features), np.nan))
    run = run_at(dataset, tmp_path / "run", ("landmarks",))
    with pytest.raises(
        TrainingError, match=r"loss of stage landmarks is nan at step \d+"
    ) as caught:
        run.train()
    assert "clips" in caught.value.fix
    assert "b" in caught.value.fix.split("clips ")[1].split(", or")[0].split(", ")
    saved = load_checkpoint(tmp_path / "run" / "landmarks" / "checkpoint")
    assert saved is None or all(v.isfinite().all() for v in saved[0].values())


class SquareRoot:
    """A task whose loss at its start, zero, is finite, but has no finite gradient."""

    name = "square root"
    examples = 3

    def __init__(self) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.zeros(len(indices), 1)}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": self.model.weight.abs().sqrt().sum()}

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        return [f"clip {i}" for i in indices]

    def validate(self) -> dict[str, float]:
        return {}

    def sheet(self) -> NDArray[np.uint8] | None:
        return None


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_lost(tmp_path: Path) -> None:
    task = SquareRoot()
    config = StageConfig(steps=4, batch=3, learning_rate=0.1)
    with pytest.raises(TrainingError, match=r"gradient of stage square root .* at step 0.*clip 2"):
        Trainer(task, config, tmp_path, autocast=False).run()
    assert task.model.weight.isfinite().all()


def test_beside_an_accelerator_numbers_are_read_a_step_later(tmp_path: Path) -> None:
    trainer = Trainer(
        SquareRoot(), StageConfig(steps=4, batch=3, learning_rate=0.1), tmp_path, autocast=False
    )
    trainer.behind = 1
    told: list[Event] = []
    with pytest.raises(TrainingError, match=r"gradient of stage square root .* at step 0"):
        trainer.run(told.append)
    assert trainer.step == 2
    assert [event.text for event in told] == [""]
    assert not (tmp_path / "checkpoint").exists()


def test_what_failed_is_not_kept_in_a_checkpoint(tmp_path: Path) -> None:
    config = StageConfig(steps=4, batch=3, learning_rate=0.1, checkpoint_every=1)
    trainer = Trainer(SquareRoot(), config, tmp_path, autocast=False)
    trainer.behind = 1
    with pytest.raises(TrainingError, match="at step 0"):
        trainer.run()
    assert not (tmp_path / "checkpoint").exists()


def test_a_checkpoint_of_another_model_is_refused(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    shutil.rmtree(folder / "landmarks")
    shutil.copytree(folder / "autoencoder", folder / "landmarks")
    with pytest.raises(TrainingError, match="of another model"):
        run_at(finished.dataset, folder).trainer("landmarks")


def test_another_seed_is_refused(finished: Finished) -> None:
    options = TrainOptions(dataset=finished.dataset, run=finished.folder, seed=1)
    with pytest.raises(TrainingError, match="begun with seed 0"):
        Run(configs.debug(), options).trainer("landmarks")


def test_the_average_is_what_remains(dataset: Path, tmp_path: Path) -> None:
    trainer = run_at(dataset, tmp_path).trainer("landmarks")
    weights = trainer.parameters["lf_trans.queries"]
    wanted, live = weights.detach().clone(), []

    def average(*_: object) -> None:
        live.append(weights.detach().clone())
        step = len(live) - 1
        decay = min(0.9, (1 + step) / (10 + step))
        wanted.copy_(decay * wanted + (1 - decay) * live[-1])

    trainer.optimizer.register_step_post_hook(average)
    trainer.run()
    assert len(live) == STEPS
    torch.testing.assert_close(trainer.ema["lf_trans.queries"], wanted)
    assert torch.equal(weights, trainer.ema["lf_trans.queries"])
    assert not torch.equal(weights, live[-1])
    tensors, _ = checkpoint_of(tmp_path / "landmarks")
    assert torch.equal(tensors["model.lf_trans.queries"], live[-1])  # to be trained on


def test_each_epoch_sees_every_example_once(dataset: Path, tmp_path: Path) -> None:
    trainer = run_at(dataset, tmp_path).trainer("landmarks")
    count = trainer.task.examples
    assert count == 6
    seen = []
    for step in range(2 * count // trainer.config.batch):
        seen += trainer.batches.indices(step).tolist()
    assert sorted(seen[:count]) == sorted(seen[count:]) == list(range(count))
    assert seen[:count] != seen[count:]


def test_batches_made_ahead_are_those_made_one_by_one(dataset: Path, tmp_path: Path) -> None:
    trainer = run_at(dataset, tmp_path).trainer("landmarks")
    config = dataclasses.replace(trainer.config, steps=3 * BATCHES_AHEAD)
    made = Batches(trainer.task, config, seed=0, parts=1)
    one_by_one = list(made.ahead(0, torch.device("cpu")))
    ahead = list(made.ahead(0, torch.device("meta")))  # anything but the CPU
    assert len(ahead) == len(one_by_one) == 3 * BATCHES_AHEAD
    for some, others in zip(ahead, one_by_one, strict=True):
        for a, b in zip(some, others, strict=True):
            assert np.array_equal(a.indices, b.indices)
            assert same(a.examples, b.examples)
            assert torch.equal(a.generator.get_state(), b.generator.get_state())


def test_the_learning_rate_rises_and_falls(dataset: Path, tmp_path: Path) -> None:
    trainer = run_at(dataset, tmp_path).trainer("landmarks")
    trainer.config = dataclasses.replace(trainer.config, steps=100, warmup_steps=10)
    rates = []
    for step in range(100):
        trainer.step = step
        rates.append(trainer._rate())
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert int(np.argmax(rates)) == 9
    assert (np.diff(rates[9:]) < 0).all()
    assert rates[-1] == pytest.approx(0.05, rel=0.01)


def test_steps_of_a_seed_are_the_same_each_time() -> None:
    mixed = {batches._mix(seed, step) for seed in range(30) for step in range(30)}
    assert len(mixed) == 900
    assert all(0 <= number < 2**63 for number in mixed)
