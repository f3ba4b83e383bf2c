"""The five stages at debug size: they train, and survive kills unchanged."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difftalker import config as configs
from difftalker.config import STAGES
from difftalker.core.files import whole_file
from difftalker.errors import TrainingError, UsageError
from difftalker.training import run as runs
from difftalker.training import trainer as trainers
from difftalker.training.options import TrainOptions
from difftalker.training.run import Run
from difftalker.training.trainer import Trainer
from helpers import write_dataset
from helpers_training import (
    STEPS,
    Finished,
    Killed,
    checkpoint_of,
    in_child,
    log_of,
    part_of,
    run_at,
    same,
)


def without_times(log: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in log]


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


def test_a_run_that_was_saved_with_former_names_goes_on(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    text = (folder / "config.json").read_text()
    former = text.replace('"hold_in_silence"', '"rests"')
    assert former != text
    (folder / "config.json").write_text(former)
    assert run_at(finished.dataset, folder).unfinished() == []
    assert (folder / "config.json").read_text() == text


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


def test_settings_of_another_model_are_refused(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    other = configs.override(configs.debug(), {"model.completion.width": "32"})
    with pytest.raises(TrainingError, match="another model configuration"):
        Run(other, TrainOptions(dataset=finished.dataset, run=folder))
    longer = configs.override(configs.debug(), {"training.prior.steps": "9"})
    Run(longer, TrainOptions(dataset=finished.dataset, run=folder))  # the same model, for longer


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


def test_footage_without_the_features_of_the_last_stage_is_refused_before_the_first(
    tmp_path: Path,
) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    for path in dataset.glob("clips/*/mel-live.npy"):
        path.unlink()
    with pytest.raises(UsageError, match=r"no 'mel-live' features.*--features mel-live"):
        run_at(dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "landmarks").exists()
    run_at(dataset, tmp_path / "run", STAGES[:-1])
