"""The commands ``difftalker baseline train`` and ``dub``."""

from __future__ import annotations

from pathlib import Path

from baselines.made import SMALL
from helpers_cli import Command


def test_train_then_dub_and_what_is_wrong(
    run: Command, dataset: Path, noise: Path, speech: Path, tmp_path: Path
) -> None:
    folder, name = tmp_path / "made", "after-makeittalk"
    words = ["baseline", "train", name, dataset, "-o", folder, "--features", "mel", "--steps", "1"]
    small = [f"--set={key}={value}" for key, value in SMALL[name].items()]
    made = run(*words, *small, "--validation-clips", "1", "--json")
    assert made.code == 0, made.err
    assert made.record["baseline"] == name
    assert "translation_psnr_lower" in made.record["unseen"]
    output = tmp_path / "out.mp4"
    run("baseline", "dub", folder, noise, speech, "-o", output).failed(1, "no face was found")
    run("baseline", "dub", tmp_path, noise, speech, "-o", output).failed(1, "is no baseline")
    run("baseline", "train", "wav2lip", dataset, "-o", tmp_path / "x").failed(
        2, "no baseline is called 'wav2lip'", "after-wav2lip"
    )
    assert not output.exists()
