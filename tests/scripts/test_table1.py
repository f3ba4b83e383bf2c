"""Table 1 on the same footage: what of many reports becomes one page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import table1
import table1_page
from difftalker.errors import UsageError
from difftalker.metrics import interval

CLIPS = ("bbaf2n", "bbal6n", "lrak9s")
SEEDS = (0, 1)


def psnr(system: str, seed: int, clip: int) -> float:
    """Ours is a decibel better than all others on every clip."""
    return 30 + clip + 0.5 * seed + (system == "difftalker")


def report(seed: int) -> dict[str, Any]:
    systems = [name for name in table1.SYSTEMS if name != "difftalker"]
    rows = {"real": "real", "own_audio": "difftalker"} | {name: name for name in systems}
    return {
        "avatar": {"size_px": 128, "clips_train": 89},
        "machine": {"threads": 2},
        "judges": {"sync": {"sha256": "ab"}},
        "rows": {row: {} for row in rows},
        "clips": [
            {
                "name": name,
                "rows": {
                    row: {"psnr_lower": psnr(system, seed, i)} for row, system in rows.items()
                },
            }
            for i, name in enumerate(CLIPS)
        ],
    }


@pytest.fixture
def options(tmp_path: Path) -> table1.Options:
    """A run of two seeds in which everything is there."""
    for seed in SEEDS:
        folder = tmp_path / "run" / str(seed)
        (folder / "dev" / "report").mkdir(parents=True)
        (folder / "dev" / "report" / "report.json").write_text(json.dumps(report(seed)))
        (folder / "speed.json").write_text(json.dumps(dict.fromkeys(table1.SYSTEMS, 10.0 + seed)))
        for name in table1.SYSTEMS:
            (folder / name).mkdir()
            save_file({"w": torch.zeros(3, 4)}, folder / name / "model.safetensors")
            stages = {"one": {"steps": 5, "minutes": 2.0}, "two": {"steps": 6, "minutes": 3.0}}
            (folder / name / "config.json").write_text(json.dumps({"facts": {"stages": stages}}))
    footage, where = str(tmp_path / "none"), ["--run", str(tmp_path / "run")]
    words = [footage, "--score", "dev=bbaf2n", *where, "--output", str(tmp_path / "out")]
    return table1.arguments([*words, "--consent", "yes", "--seeds", "0", "1", "--minutes", "5"])


def test_every_figure_of_every_clip_and_seed_is_kept(options: table1.Options) -> None:
    found = table1.merged("dev", options)
    assert found["clips"] == list(CLIPS)
    for name in table1.SYSTEMS:
        for seed in SEEDS:
            figures = found["figures"][name][str(seed)]
            assert [figures[clip]["psnr_lower"] for clip in CLIPS] == [
                psnr(name, seed, i) for i in range(3)
            ]
        assert found["systems"][name] == {
            "parameters": 12,
            "steps": {seed: {"one": 5, "two": 6} for seed in "01"},
            "minutes": {"0": 5.0, "1": 5.0},
            "fps": {"0": 10.0, "1": 11.0},
        }


def test_seeds_of_another_machine_join_those_there(options: table1.Options) -> None:
    whole = table1.merged("dev", options)
    first, second = (table1.merged("dev", replace(options, seeds=(seed,))) for seed in SEEDS)
    assert table1.joined(table1.joined(None, second), first) == whole
    assert table1.joined(whole, first) == whole
    with pytest.raises(UsageError, match="minutes of the seeds there are: 7"):
        table1.joined(whole | {"minutes": 7.0}, first)


def test_the_page_has_means_over_seeds_and_paired_differences(options: table1.Options) -> None:
    page = list(table1_page.section(table1.merged("dev", options)))
    rows = [one for one in page if one.startswith("| PSNR, lower")]
    assert len(rows) == 2
    one, spread = interval([31.25, 32.25, 33.25], seed=0), np.std([32, 32.5], ddof=1)
    assert f"| 32.25 ± {(one.high - one.low) / 2:.2f} ({spread:.2f}) |" in rows[0]
    assert rows[1].count("**-1.00 (-1.00 to -1.00)**") == len(table1.SYSTEMS) - 1
    assert any("| frames a second" in one and "10.5" in one for one in page)


def test_what_is_measured_has_a_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["clip.mpg", "--score", "bbaf2n", "--run", "r", "--output", "o", "--consent", "yes"]
    with pytest.raises(SystemExit):
        table1.arguments(words)
    assert "wanted NAME=CLIPS" in capsys.readouterr().err


def test_footage_that_is_missing_is_said_in_a_line(
    options: table1.Options, capsys: pytest.CaptureFixture[str]
) -> None:
    footage, folder = str(options.footage[0]), str(options.run / "new")
    words = ["--score", "dev=x", "--run", folder, "--output", folder, "--consent", "yes"]
    assert table1.main([footage, *words]) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("table1: ")
