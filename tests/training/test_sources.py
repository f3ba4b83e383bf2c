"""What the stages of a run share: its clips and their delays."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from difftalker.training.run import Run
from helpers import write_dataset
from helpers_training import run_at


def test_the_sound_of_a_run_is_aligned_once(tmp_path: Path) -> None:
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
    off = dataclasses.replace(again.config.training, align_sound=False)
    apart = Run(dataclasses.replace(again.config, training=off), again.options)
    apart.trainer("landmarks")
    assert all(clip.delay_s == 0 for clip in apart.data.train)
