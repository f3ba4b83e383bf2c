"""The five stages at debug size: they train, survive kills unchanged, and make an avatar."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from difftalker import config as configs
from difftalker.config import STAGES, StageConfig, SynthesisRecipe
from difftalker.core.files import whole_file
from difftalker.core.hashing import sha256_of
from difftalker.data.dataset import ClipData, frame_index, load_dataset, span_index
from difftalker.data.latents import encode_clips
from difftalker.dubbing.avatar import load
from difftalker.dubbing.load_checked import restore
from difftalker.dubbing.networks import build
from difftalker.errors import MediaError, TrainingError, UsageError
from difftalker.face.draw import CHANNELS
from difftalker.face.landmarks import LOWER, MOUTH, UPPER, mouth_opening
from difftalker.landmarks.completion import CompletionNet
from difftalker.metrics import detail_energy
from difftalker.store.avatars import read
from difftalker.synthesis.autoencoder import Autoencoder, high_pass, to_images, to_pixels
from difftalker.synthesis.sampling import timesteps_of
from difftalker.training import decoder_task
from difftalker.training import run as runs
from difftalker.training import trainer as trainers
from difftalker.training.checkpoint import load_checkpoint, save_checkpoint
from difftalker.training.cross_fit import (
    FEWEST_CLIPS,
    PIECE_FRAMES,
    bring_in_step,
    complete,
    completed_by_others,
)
from difftalker.training.decoder_task import MOST_DETAIL, DecoderTask
from difftalker.training.export import save_avatar
from difftalker.training.run import Run
from difftalker.training.sources import TrainOptions
from difftalker.training.stages import TABLE
from difftalker.training.tasks import LandmarkTask, SynthesisTask, mouth_mask
from difftalker.training.trainer import BATCHES_AHEAD, Trainer
from helpers import face_points, write_dataset

STEPS = configs.debug().training.landmarks.steps

# What a child process imports once, for all children that are forked from it.
WARM = (
    "test_training",
    "difftalker.training.run",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
)
KILLABLE = (str(Path("difftalker", "training")), str(Path("data", "latents.py")))
"""Code whose lines are counted, to be killed at one of them."""


def run_at(dataset: Path, folder: Path, stages: tuple[str, ...] = STAGES) -> Run:
    return Run(configs.debug(), TrainOptions(dataset=dataset, run=folder, stages=stages))


def train_and_die(dataset: Path, folder: Path, stage: str, last_line: int, record: Path) -> None:
    """Train a stage, and die by SIGKILL at the given line of the training code; 0: never.

    Writes down how many lines there were, and after how many the first step was taken.
    """
    torch.set_num_threads(1)
    seen = {"lines": 0, "first_step": 0}

    def each_line(frame: FrameType, event: str, _: object) -> Any:
        seen["lines"] += event == "line"
        if seen["lines"] == last_line:
            os.kill(os.getpid(), signal.SIGKILL)
        return each_line

    def each_call(frame: FrameType, _: str, __: object) -> Any:
        if frame.f_code.co_name == "_one_step" and not seen["first_step"]:
            seen["first_step"] = seen["lines"]
        return each_line if any(part in frame.f_code.co_filename for part in KILLABLE) else None

    sys.settrace(each_call)
    run_at(dataset, folder, (stage,)).train()
    sys.settrace(None)
    record.write_text(json.dumps(seen))


def in_child(*args: object) -> int | None:
    """Call ``train_and_die`` in a process of its own; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WARM))
    process = context.Process(target=train_and_die, args=args)
    process.start()
    process.join()
    return process.exitcode


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run left alone."""

    dataset: Path
    folder: Path
    lines: Mapping[str, Mapping[str, int]]
    """For each stage: ``lines`` of training code in all, and before its ``first_step``."""


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder, lines = tmp_path_factory.mktemp("runs") / "left-alone", {}
    for stage in STAGES:
        record = folder.with_name(f"{stage}.json")
        assert in_child(dataset, folder, stage, 0, record) == 0
        lines[stage] = json.loads(record.read_text())
    return Finished(dataset, folder, lines)


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_times(log: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in log]


def checkpoint_of(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    saved = load_checkpoint(folder / "checkpoint")
    assert saved is not None
    return saved


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


# The stages


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_trains(finished: Finished, stage: str) -> None:
    folder = finished.folder / stage
    log = log_of(folder)
    losses = [record["loss"] for record in log if "loss" in record]
    assert [record["step"] for record in log if "loss" in record] == list(range(1, STEPS + 1))
    assert np.isfinite(losses).all()
    assert len(set(losses)) == STEPS
    validations = [record for record in log if any(k.startswith("validation_") for k in record)]
    assert [record["step"] for record in validations] == [3, 6]
    assert all(np.isfinite(list(record.values())).all() for record in validations)
    for step in (3, 6):
        with Image.open(folder / f"sheet-{step:06d}.png") as sheet:
            assert min(sheet.size) >= 64
    tensors, facts = checkpoint_of(folder)
    assert facts["step"] == STEPS
    assert not same(part_of(tensors, "model"), part_of(tensors, "ema"))


def test_a_finished_stage_is_left_as_it_is(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    before = (folder / "landmarks" / "log.jsonl").read_bytes()
    numbers = run_at(finished.dataset, folder, ("landmarks",)).train()["landmarks"]
    assert (folder / "landmarks" / "log.jsonl").read_bytes() == before
    last = log_of(folder / "landmarks")[-1]
    assert {f"validation_{k}": v for k, v in numbers.items()}.items() <= last.items()


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed_is_as_left_alone(
    finished: Finished, stage: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(folder / later)
    if stage in ("autoencoder", "prior"):
        shutil.rmtree(folder / "latents")
    lines, rng = finished.lines[stage], np.random.default_rng(STAGES.index(stage))
    record = tmp_path / "record.json"
    for _ in range(2):
        # Somewhere in the first half of the steps: those after the last checkpoint are lost, so
        # there are enough left for the next kill.
        moment = lines["first_step"] + rng.uniform(0, 0.5) * (lines["lines"] - lines["first_step"])
        exit_code = in_child(finished.dataset, folder, stage, int(moment), record)
        assert exit_code == -signal.SIGKILL
        assert not record.exists()
    assert in_child(finished.dataset, folder, stage, 0, record) == 0
    ours, theirs = log_of(folder / stage), log_of(finished.folder / stage)
    assert [r.get("loss") for r in ours] == [r.get("loss") for r in theirs]
    assert without_times(ours) == without_times(theirs)
    tensors, _ = checkpoint_of(folder / stage)
    assert same(tensors, checkpoint_of(finished.folder / stage)[0])


# Checkpoints and other files, killed while they are written


class Killed(BaseException):
    """Stands for a kill: nothing that cleans up after errors may see it."""


def killed_at(line: int, work: Callable[[], None]) -> bool:
    """Do the work up to a line of ``checkpoint.py``; whether there was such a line."""
    count = 0

    def each_line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        if count == line:
            raise Killed
        return each_line

    def each_call(frame: FrameType, _: str, __: object) -> Any:
        return each_line if frame.f_code.co_filename.endswith("checkpoint.py") else None

    sys.settrace(each_call)
    try:
        work()
    except Killed:
        return True
    finally:
        sys.settrace(None)
    return False


def save(folder: Path, number: int) -> None:
    save_checkpoint(folder, {"x": torch.full((3,), float(number))}, {"step": number})


def saved_number(folder: Path) -> int:
    """Which state is there, of tensors and facts alike."""
    saved = load_checkpoint(folder)
    assert saved is not None
    tensors, facts = saved
    assert (tensors["x"] == facts["step"]).all()
    return int(facts["step"])


def test_a_checkpoint_survives_kills_at_any_line_of_a_save(tmp_path: Path) -> None:
    first, lines = 0, 0
    while True:
        first, second = first + 1, 0
        while True:
            second += 1
            folder = tmp_path / f"{first}-{second}" / "checkpoint"
            save(folder, 1)
            was_killed = killed_at(first, lambda folder=folder: save(folder, 2))  # type: ignore[misc]
            between = saved_number(folder)
            assert between in ((1, 2) if was_killed else (2,))
            if not killed_at(second, lambda folder=folder: save(folder, 3)):  # type: ignore[misc]
                break
            # Killed twice, without a whole save in between.
            assert saved_number(folder) in (between, 3)
            save(folder, 4)
            assert saved_number(folder) == 4
        lines = max(lines, second)
        if not was_killed:
            break
    assert lines > 8


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint", 1)
    state = tmp_path / "checkpoint" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-4])
    with pytest.raises(TrainingError, match=r"checkpoint is damaged .*delete it"):
        load_checkpoint(tmp_path / "checkpoint")


def test_log_and_settings_survive_a_kill_while_they_are_written_again(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))

    def half(path: Path, content: str) -> None:
        with whole_file(path) as file:
            file.write(content[: len(content) // 2].encode())
            raise Killed

    def resumed() -> Trainer:
        return run_at(finished.dataset, folder, ("landmarks",)).trainer("landmarks")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_whole", half)
        with pytest.raises(Killed):  # over config.json
            resumed()
    run = run_at(finished.dataset, folder, ("landmarks",))
    with monkeypatch.context() as patch:
        patch.setattr(trainers, "write_whole", half)
        with pytest.raises(Killed):  # over log.jsonl
            run.trainer("landmarks")
    assert resumed().step == STEPS
    assert log_of(folder / "landmarks") == log_of(finished.folder / "landmarks")


def test_a_line_of_the_log_cut_off_by_a_kill_is_forgotten(
    finished: Finished, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    with (folder / "landmarks" / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "loss": 1.0}\n{"step": 8, "lo')
    run_at(finished.dataset, folder).trainer("landmarks")
    assert log_of(folder / "landmarks") == log_of(finished.folder / "landmarks")


# What goes wrong


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


def test_settings_of_another_model_are_refused(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    other = configs.override(configs.debug(), {"model.completion.width": "32"})
    with pytest.raises(TrainingError, match="another model configuration"):
        Run(other, TrainOptions(dataset=finished.dataset, run=folder))
    longer = configs.override(configs.debug(), {"training.prior.steps": "9"})
    Run(longer, TrainOptions(dataset=finished.dataset, run=folder))  # the same model, for longer


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


def test_crops_of_another_size_are_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", ("a",), frames=12, size_px=128)
    with pytest.raises(UsageError, match=r"128 pixels wide.*wanted 64"):
        run_at(dataset, tmp_path / "run")


def test_a_stage_wants_the_one_before_it(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="stage autoencoder is at step 0 of 6"):
        run_at(dataset, tmp_path, ("prior",)).train()


def test_there_is_no_such_stage(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'lips'"):
        run_at(dataset, tmp_path, ("lips",))


# What a step does


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
        seen += trainer._indices(step).tolist()
    assert sorted(seen[:count]) == sorted(seen[count:]) == list(range(count))
    assert seen[:count] != seen[count:]


def test_batches_made_ahead_are_those_made_one_by_one(dataset: Path, tmp_path: Path) -> None:
    trainer = run_at(dataset, tmp_path).trainer("landmarks")
    trainer.config = dataclasses.replace(trainer.config, steps=3 * BATCHES_AHEAD)
    one_by_one = list(trainer._batches())
    trainer.device = torch.device("meta")  # anything but the CPU
    ahead = list(trainer._batches())
    assert len(ahead) == len(one_by_one) == 3 * BATCHES_AHEAD
    for a, b in zip(ahead, one_by_one, strict=True):
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
    mixed = {trainers._mix(seed, step) for seed in range(30) for step in range(30)}
    assert len(mixed) == 900
    assert all(0 <= number < 2**63 for number in mixed)


def test_the_landmark_loss_is_eq_1(dataset: Path) -> None:
    data = load_dataset(dataset, validation_clips=1)
    torch.manual_seed(0)
    model = CompletionNet(configs.debug().model.completion).eval()
    task = LandmarkTask(model, data, span=12)
    task.fit()
    batch = task.batch(np.array([0, 4]), torch.Generator().manual_seed(0))
    with torch.no_grad():
        mse = float(task.loss(batch, torch.Generator())["mse"])
        out = model(batch["points"][:, :, list(UPPER)], batch["windows"]).points
    gaps = (out - batch["points"]).double().numpy()[:, :, list(LOWER)]
    by_hand = [gap[0] ** 2 + gap[1] ** 2 for gap in gaps.reshape(-1, 2)]
    assert mse == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)


def test_the_mouth_of_a_mask_is_the_lips_and_a_cell_around_them() -> None:
    points = torch.zeros(1, 68, 2)
    points[:, list(MOUTH)] = torch.tensor([0.5, 0.7])
    points[:, MOUTH[0]] = torch.tensor([0.33, 0.61])
    mouth = mouth_mask(points, 10)[0, 0]
    # From cell 3 to cell 5 and from 6 to 7 lie lips; one more on every side.
    wanted = torch.zeros(10, 10)
    wanted[5:8, 2:6] = 1
    torch.testing.assert_close(mouth, wanted)


def test_synthesis_learns_the_mouth_first_and_half_at_the_steps_in_use(
    finished: Finished,
) -> None:
    task = run_at(finished.dataset, finished.folder).trainer("synthesis").task
    assert isinstance(task, SynthesisTask)
    batch = task.batch(np.array([0, 1]), torch.Generator().manual_seed(0))
    assert (batch["mouth"] * batch["mask"]).any()

    def loss() -> float:
        torch.manual_seed(0)
        return float(task.loss(batch, torch.Generator().manual_seed(0))["loss"])

    weighed = loss()
    batch["mouth"] = torch.zeros_like(batch["mouth"])
    assert loss() != weighed
    steps = task._steps(1000, torch.Generator().manual_seed(0))
    in_use = torch.isin(steps, timesteps_of("dpm++", 2, "v_prediction")).float().mean()
    assert 0.4 < float(in_use) < 0.6


def test_some_mouths_are_learned_under_an_upper_face_of_another_moment(finished: Finished) -> None:
    task = run_at(finished.dataset, finished.folder).trainer("synthesis").task
    assert isinstance(task, SynthesisTask)
    latents, clips = task._latents, run_at(finished.dataset, finished.folder).data.train
    examples = np.arange(400) % task.examples
    batch = task.batch(examples, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(batch["whole"].numpy(), latents.whole[examples])
    seen = [np.flatnonzero((latents.masked == p.numpy()).all((1, 2, 3))) for p in batch["painted"]]
    above = np.array(
        [rows[0] if e not in rows else e for e, rows in zip(examples, seen, strict=True)]
    )
    other = above != examples
    assert 0.1 < other.mean() < SynthesisRecipe().other_upper_share + 0.1
    np.testing.assert_array_equal(batch["own"].numpy(), ~other)
    own, known = latents.index[examples], latents.index[above]
    assert (own[:, 0] == known[:, 0]).all()
    upper = [clips[c].points_crop[f][list(UPPER)] for c, f in np.concatenate([own, known])]
    gaps = np.linalg.norm(np.stack(upper[:400]) - np.stack(upper[400:]), axis=-1).mean(-1)
    assert gaps.max() < SynthesisRecipe().alike_crop


def test_speech_beside_landmarks_is_blurred_and_sometimes_missing(
    dataset: Path, tmp_path: Path
) -> None:
    data = load_dataset(dataset, validation_clips=1)
    model, seen = configs.debug().model, {}
    for guidance in configs.GUIDANCES:
        synthesis = dataclasses.replace(model.synthesis, guidance=guidance)
        net = build(dataclasses.replace(model, synthesis=synthesis))
        latents = encode_clips(net.autoencoder, data.train, tmp_path / "latents", stride=1)
        speech = model.completion
        task = SynthesisTask(net.synthesis, net.autoencoder, data, latents, speech=speech)
        batch = task.batch(np.arange(60) % task.examples, torch.Generator().manual_seed(0))
        assert torch.isfinite(task.loss(batch, torch.Generator().manual_seed(0))["loss"])
        seen[guidance] = batch
    assert "windows" not in seen["landmarks"]
    assert "maps" not in seen["audio"]
    true, given = seen["audio"]["windows"], seen["both"]["windows"]
    deaf = (given == 0).all(-1).all(-1)
    assert 0 < int(deaf.sum()) < 30
    assert not (true == 0).all(-1).all(-1).any()
    gaps = (given - true)[~deaf]
    assert 0 < float(gaps.abs().mean()) < float(true.std())


def test_lips_are_as_they_are_drawn_whatever_is_said(dataset: Path, tmp_path: Path) -> None:
    recipe = SynthesisRecipe(speech_jitter=0.0, deaf_share=0.0)
    data, model = load_dataset(dataset, validation_clips=1), configs.debug().model
    for guidance in ("both", "audio"):
        synthesis = dataclasses.replace(model.synthesis, guidance=guidance)
        net = build(dataclasses.replace(model, synthesis=synthesis))
        latents = encode_clips(net.autoencoder, data.train, tmp_path / "latents", stride=1)
        speech = model.completion
        task = SynthesisTask(
            net.synthesis, net.autoencoder, data, latents, speech=speech, recipe=recipe
        )
        examples = np.arange(600) % task.examples
        batch = task.batch(examples, torch.Generator().manual_seed(0))
        said = [task._windows[data.train[c].name][0][f] for c, f in latents.index[examples]]
        same = (batch["windows"].numpy() == np.stack(said)).all((1, 2))
        assert same[batch["own"].numpy()].all()
        others = 1 - same[~batch["own"].numpy()].mean()
        # Where speech alone tells of the mouth, it is that mouth's.
        assert abs(others - recipe.other_speech_share) < 0.1 if guidance == "both" else others == 0


def test_landmarks_are_completed_by_a_fit_to_other_clips(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data")
    config = configs.debug().model.completion

    def completed() -> list[NDArray[np.float32]]:
        return completed_by_others(config, load_dataset(dataset, validation_clips=0).train)

    before = completed()
    track = dataset / "clips" / "a" / "track.npz"
    arrays = dict(np.load(track))
    arrays["points_crop"][:, list(LOWER)] += 0.1
    np.savez(track, **arrays)
    after = completed()
    # What its own mouth does reaches the others' fits, and not its own.
    np.testing.assert_allclose(after[0], before[0], atol=1e-5)
    assert np.abs(after[1] - before[1]).max() > 1e-3
    for clip, points in zip(load_dataset(dataset, validation_clips=0).train, after, strict=True):
        upper = list(UPPER)
        np.testing.assert_allclose(points[:, upper], clip.points_crop[:, upper], atol=1e-5)


def spoken_clips(folder: Path, late_s: Sequence[float]) -> list[ClipData]:
    """Clips whose mouths open with their sound, which is late by so much."""
    dataset = write_dataset(folder, [f"clip-{i}" for i in range(len(late_s))], frames=75)
    clips = load_dataset(dataset, validation_clips=0).train
    loud, soft = np.random.default_rng(99).uniform(0, 1, (2, 80))  # spectra
    for seed, (clip, late) in enumerate(zip(clips, late_s, strict=True)):
        rng = np.random.default_rng(seed)
        knots_s = np.arange(-1, 5, 0.12)
        loudness = rng.uniform(0, 1, len(knots_s))
        clip.points_crop = np.stack(
            [face_points(0.08 * x) for x in np.interp(clip.times_s, knots_s, loudness)]
        )
        heard = np.interp(np.arange(150) / 50 - late, knots_s, loudness)
        mel = soft + heard[:, None] * (loud - soft) + rng.normal(0, 0.05, (150, 80))
        np.save(dataset / "clips" / clip.name / "mel.npy", mel.astype(np.float16))
    return clips


def test_sound_is_brought_in_step_with_lips(tmp_path: Path) -> None:
    late_s = np.zeros(12)
    late_s[[1, 4, 7]] = 0.3, -0.08, 0.04
    clips = spoken_clips(tmp_path / "data", late_s.tolist())
    bring_in_step(configs.debug().model.completion, clips)
    found_s = np.array([clip.delay_s for clip in clips])
    # A lag that all have is none of theirs: fits do not know it.
    np.testing.assert_allclose(found_s - np.median(found_s), late_s, atol=0.02)
    assert abs(np.median(found_s)) < 0.02


def test_sound_of_few_clips_and_of_others_voices_stays(tmp_path: Path) -> None:
    clips = spoken_clips(tmp_path / "data", [0.2] + 11 * [0.0])
    few = clips[: FEWEST_CLIPS - 1]
    bring_in_step(configs.debug().model.completion, few)
    assert all(clip.delay_s == 0 for clip in few)
    for clip, other in zip(clips, [*clips[1:], clips[0]], strict=True):
        clip.points_crop = other.points_crop.copy()
    bring_in_step(configs.debug().model.completion, clips)
    assert all(clip.delay_s == 0 for clip in clips)


def test_a_run_hears_its_clips_in_step(tmp_path: Path) -> None:
    names = [f"clip-{i}" for i in range(10)]
    dataset = write_dataset(tmp_path / "data", names, frames=60)
    run = run_at(dataset, tmp_path / "run")
    run.trainer("landmarks")
    kept = json.loads((tmp_path / "run" / "delays.json").read_text())
    assert sorted(kept) == names
    heard = {c.name: c.delay_s for c in [*run.data.train, *run.data.validation]}
    assert heard == kept == run.sources.delays_s()
    changed = dict.fromkeys(names, 0.1)
    (tmp_path / "run" / "delays.json").write_text(json.dumps(changed))
    again = run_at(dataset, tmp_path / "run")
    again.trainer("landmarks")
    assert all(clip.delay_s == 0.1 for clip in again.data.train)
    off = dataclasses.replace(again.config.training, in_step=False)
    apart = Run(dataclasses.replace(again.config, training=off), again.options)
    apart.trainer("landmarks")
    assert all(clip.delay_s == 0 for clip in apart.data.train)


def test_some_landmarks_of_the_synthesis_are_completed(dataset: Path, tmp_path: Path) -> None:
    run = run_at(dataset, tmp_path)
    data, net = run.data, build(run.config.model)
    latents = encode_clips(net.autoencoder, data.train, tmp_path / "latents", stride=1)
    shares = {}
    for share in (0.0, 0.5, 1.0):
        task = SynthesisTask(
            net.synthesis,
            net.autoencoder,
            data,
            latents,
            speech=run.config.model.completion,
            completed_share=share,
        )
        assert len(task._completed) == (len(data.train) if share else 0)
        task._completed = [np.full_like(points, 0.1) for points in task._completed]
        batch = task.batch(np.arange(60) % task.examples, torch.Generator().manual_seed(0))
        # Those points are all in one corner: nothing of the mouth is drawn where it was.
        lower = batch["maps"][:, CHANNELS.index("open_mouth"), 20:]
        shares[share] = float((lower.flatten(1).sum(1) == 0).float().mean())
    assert (shares[0.0], shares[1.0]) == (0, 1)
    assert 0.3 < shares[0.5] < 0.7


def test_completed_faces_are_of_the_upper_ones_moment_with_lips_as_open_as_the_picture(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_at(dataset, tmp_path)
    net, clips = build(run.config.model), run.data.train
    frames = np.arange(len(clips[0]), dtype=np.float32)
    clips[0].points_crop = np.stack([face_points(x) for x in frames / 100])
    clips[0].points_crop[:, UPPER[0], 0] = frames / 1e4
    latents = encode_clips(net.autoencoder, clips[:1], tmp_path / "latents", stride=1)
    task = SynthesisTask(
        net.synthesis,
        net.autoencoder,
        run.data,
        latents,
        speech=run.config.model.completion,
        completed_share=1.0,
        recipe=SynthesisRecipe(point_jitter=0.0),
    )
    smiles = np.stack([face_points(0.03)] * len(frames))
    smiles[:, 48, 0] = frames / 1e3
    task._completed = [smiles]
    drawn: list[NDArray[np.float32]] = []
    guides = task._guides

    def keep(*given: Any) -> dict[str, Tensor]:
        drawn.append(given[2])
        return guides(*given)

    monkeypatch.setattr(task, "_guides", keep)
    task.batch(np.arange(task.examples), torch.Generator().manual_seed(0))
    points, own = drawn[0], clips[0].points_crop[latents.index[:, 1]]
    np.testing.assert_allclose(mouth_opening(points), mouth_opening(own), atol=1e-6)
    above = np.rint(points[:, UPPER[0], 0] * 1e4)
    assert 0 < (above != latents.index[:, 1]).mean() < 1
    np.testing.assert_allclose(points[:, 48, 0], above / 1e3, atol=1e-6)


def test_a_long_clip_is_completed_in_pieces_as_in_one() -> None:
    config = configs.debug().model.completion
    torch.manual_seed(0)
    model = CompletionNet(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    frames = 2 * PIECE_FRAMES + 5
    rng = np.random.default_rng(0)
    points = rng.random((frames, 68, 2), np.float32)
    windows = rng.random((frames, config.window, config.feature_dim), np.float32)
    with torch.no_grad():
        upper = torch.from_numpy(points[None, :, list(UPPER)])
        whole = model(upper, torch.from_numpy(windows[None])).points[0].numpy()
    np.testing.assert_allclose(complete(model, points, windows), whole, atol=1e-5)


# The dataset and its latents


def test_clips_are_held_out_evenly_and_the_same_each_time(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, tuple("abcdefghijkl"), frames=12)
    for wanted, held_out in ((1, "g"), (2, "dj"), (4, "dj"), (9, "dj")):
        data = load_dataset(dataset, validation_clips=wanted)
        assert "".join(clip.name for clip in data.validation) == held_out
        assert {*held_out}.isdisjoint(clip.name for clip in data.train)
        assert len(data.train) + len(data.validation) == 12


def test_only_frames_with_a_face_are_learned_from(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, ("a", "b"), frames=30)
    path = dataset / "clips" / "a" / "track.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["found"][10:12] = False
    np.savez(path, **arrays)
    clips = [ClipData(dataset / "clips" / name) for name in "ab"]
    frames = frame_index(clips)
    assert len(frames) == 58
    assert not ((frames[:, 0] == 0) & np.isin(frames[:, 1], (10, 11))).any()
    spans = span_index(clips, 12, stride=1)
    assert spans[spans[:, 0] == 0, 1].tolist() == [12 + i for i in range(7)]
    assert len(spans[spans[:, 0] == 1]) == 19


def test_a_damaged_clip_is_named(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, ("a", "b"), frames=12)
    track = dataset / "clips" / "b" / "track.npz"
    track.write_bytes(track.read_bytes()[:100])
    with pytest.raises(MediaError, match=r"clips/b of the dataset cannot be read"):
        load_dataset(dataset, validation_clips=1)


def test_features_that_were_not_prepared_are_named(dataset: Path) -> None:
    clip = load_dataset(dataset, validation_clips=1).train[0]
    with pytest.raises(UsageError, match=r"no 'whisper' features.*--features whisper-padded"):
        clip.windows("whisper", 16)


def test_latents_are_kept_for_the_same_weights_alone(dataset: Path, tmp_path: Path) -> None:
    clips = load_dataset(dataset, validation_clips=1).train
    torch.manual_seed(0)
    net = Autoencoder(configs.debug().model.autoencoder)
    calls: list[int] = []

    def encoded() -> Any:
        calls.clear()
        return encode_clips(
            net,
            clips,
            tmp_path / "latents",
            stride=2,
            autocast=False,
            batch=7,
            progress=lambda done, total: calls.append(done),
        )

    first = encoded()
    assert calls == [7, 14, 21, 27]
    assert first.whole.shape == first.masked.shape == (27, 4, 8, 8)
    assert first.index.tolist()[:2] == [[0, 0], [0, 2]]
    assert np.array_equal(encoded().whole, first.whole)
    assert calls == []
    before = np.array(first.whole)
    with torch.no_grad():
        net.kl.encoder.conv_in.bias.add_(1)
    assert not np.array_equal(encoded().whole, before)
    assert len(calls) == 4


# The avatar


def halves(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}


def test_a_finished_run_becomes_an_avatar(finished: Finished, tmp_path: Path) -> None:
    run = run_at(finished.dataset, finished.folder)
    folder = tmp_path / "avatar"
    save_avatar(run, folder, name="cartoon", consent="drawn", source="tests", command="make test")
    card = (folder / "card.md").read_text()
    assert all(text in card for text in ("cartoon", "drawn", "tests", "make test", *STAGES))

    # The averages are what is saved, and the frozen prior is the trained one.
    completion = load_file(folder / "completion.safetensors")
    tensors, _ = checkpoint_of(finished.folder / "landmarks")
    ema = halves(part_of(tensors, "ema"))
    assert same({k: completion[k] for k in ema}, ema)
    synthesis = load_file(folder / "synthesis.safetensors")
    for stage, prefix in (("prior", "prior."), ("synthesis", "")):
        ema = halves(part_of(checkpoint_of(finished.folder / stage)[0], "ema"))
        assert ema
        assert same({k: synthesis[prefix + k] for k in ema}, ema)

    avatar = load(folder)
    clip = run.data.validation[0]
    crops, boxes = np.array(clip.frames[:3]), clip.boxes[:3]
    made = avatar.renderer().render(crops, boxes, clip.points_crop[:3])
    assert made.shape == crops.shape
    assert made.dtype == np.uint8
    assert made.std() > 5


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

    monkeypatch.setattr(decoder_task, "openings_found", found)
    task = run.trainer("decoder").task
    openings = TABLE["decoder"].artefact(task, run.sources).calibration.openings
    assert openings == pytest.approx([0.01] * 8, abs=2e-3)


def started(finished: Finished, folder: Path, start: Path, stages: tuple[str, ...]) -> Run:
    options = TrainOptions(
        dataset=finished.dataset, run=folder, stages=stages, start=str(start), seed=1
    )
    return Run(configs.debug(), options)


def test_a_synthesis_that_saw_begins_one_that_hears_too(finished: Finished, tmp_path: Path) -> None:
    first, debug = tmp_path / "first", configs.debug()
    said = {"consent": "drawn", "source": "tests", "command": "make test"}
    save_avatar(run_at(finished.dataset, finished.folder), first, name="cartoon", **said)
    synthesis = dataclasses.replace(debug.model.synthesis, guidance="both")
    model = dataclasses.replace(debug.model, synthesis=synthesis)
    both = dataclasses.replace(debug, model=model)
    options = TrainOptions(
        dataset=finished.dataset,
        run=tmp_path / "run",
        stages=("synthesis",),
        start=str(first),
        keep=True,
    )
    begun = Run(both, options).trainer("synthesis").task.model.state_dict()
    saw = restore(read(first)).synthesis.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in saw.items())
    new = set(begun) - set(saw)
    assert new
    assert all(name.startswith("prompt.") for name in new)
    kept = dataclasses.replace(options, run=tmp_path / "kept", stages=("decoder",))
    with pytest.raises(UsageError, match="guided by landmarks, not by both"):
        Run(both, kept)


def test_a_run_begins_from_an_avatar_and_leaves_the_other_stages_as_they_are(
    finished: Finished, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    said = {"consent": "drawn", "source": "tests", "command": "make test"}
    save_avatar(run_at(finished.dataset, finished.folder), first, name="cartoon", **said)
    run = started(finished, tmp_path / "run", first, ("landmarks", "decoder"))
    begun = run.trainer("landmarks").task.model.state_dict()
    old = load(first).networks.state()
    torch.testing.assert_close(begun["bm_trans.queries"], old["completion"]["bm_trans.queries"])
    run.train()
    assert run.unfinished() == []
    save_avatar(run, second, name="cartoon", **said)
    new = load(second).networks.state()
    assert same(new["synthesis"], old["synthesis"])
    for part in ("completion", "autoencoder"):
        assert not same(new[part], old[part])
    facts = load(second).facts["stages"]
    assert set(facts) == set(STAGES)
    assert facts["prior"] == load(first).facts["stages"]["prior"]
    assert (facts["prior"]["steps"], facts["decoder"]["steps"]) == (STEPS, 2 * STEPS)


@pytest.mark.parametrize("stages", [("prior",), ("synthesis",), ("autoencoder",)])
def test_every_stage_begins_from_an_avatar(
    finished: Finished, stages: tuple[str, ...], tmp_path: Path
) -> None:
    first = tmp_path / "first"
    run = run_at(finished.dataset, finished.folder)
    save_avatar(run, first, name="a", consent="drawn", source="tests", command="make test")
    part = "synthesis" if stages[0] == "prior" else stages[0]
    old = restore(read(first)).state()[part]
    begun = started(finished, tmp_path / "run", first, stages).trainer(stages[0]).task.model
    prefix = "prior." if stages[0] == "prior" else ""
    for name, tensor in begun.state_dict().items():
        torch.testing.assert_close(tensor, old[prefix + name].to(tensor), msg=name)


def blinking(folder: Path, blinks_hz: float) -> Path:
    """The avatar, with another rate of blinks than its footage has."""
    part = folder / "motion.safetensors"
    save_file({**load_file(part), "blinks_hz": torch.tensor(blinks_hz).half()}, part)
    config = folder / "config.json"
    raw = json.loads(config.read_text())
    raw["files"][part.name] = sha256_of(part)
    config.write_text(json.dumps(raw))
    return folder


def test_the_movement_of_heads_is_that_of_the_footage_the_landmarks_come_from(
    finished: Finished, tmp_path: Path
) -> None:
    first, said = tmp_path / "first", {"consent": "drawn", "source": "tests", "command": "make"}
    save_avatar(run_at(finished.dataset, finished.folder), first, name="cartoon", **said)
    saved = load(first).networks.motion
    seen = load_dataset(finished.dataset, validation_clips=1).train[0].points_crop[:, list(UPPER)]
    # The drawn head sways by a hundredth of the crop about where it stands.
    np.testing.assert_allclose(saved.mean.numpy(), seen.mean(0), atol=0.02)
    assert 0 < float(saved.spread[0]) < 0.2
    blinking(first, 0.125)
    for stages, is_kept in ((("decoder",), True), (("landmarks",), False)):
        run = started(finished, tmp_path / f"run-{stages[0]}", first, stages)
        run.train()
        assert (float(run.sources.networks().motion.blinks_hz) == 0.125) is is_kept


def test_a_run_begins_from_no_avatar_of_other_networks(finished: Finished, tmp_path: Path) -> None:
    run = run_at(finished.dataset, finished.folder)
    said = {"consent": "drawn", "source": "tests", "command": "make test"}
    save_avatar(run, tmp_path / "first", name="cartoon", **said)
    other = configs.override(configs.debug(), {"model.completion.width": "32"})
    options = TrainOptions(
        dataset=finished.dataset, run=tmp_path / "run", start=str(tmp_path / "first")
    )
    with pytest.raises(UsageError, match=r"has other networks.*with --start none"):
        Run(other, options)


def test_an_unfinished_run_becomes_no_avatar(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    shutil.rmtree(folder / "synthesis")
    with pytest.raises(TrainingError, match="stage synthesis is at step 0"):
        save_avatar(
            run_at(finished.dataset, folder),
            tmp_path / "avatar",
            name="x",
            consent="x",
            source="x",
            command="x",
        )
    assert not (tmp_path / "avatar").exists()
