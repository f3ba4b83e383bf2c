r"""The paper's Table 1, whole: all five systems trained alike on the same footage, and measured.

    python scripts/table1.py GRID/s1 --clips GRID/protocol.json:train \
        --score test=GRID/protocol.json:test --alignments GRID/alignments/s1 \
        --run runs/table1 --output docs/reports/table1 --consent "..."

Every system learns from the same clips and crops for as many minutes, once for each seed, and dubs
the clips of each ``--score`` with their own sound. What is there already is not made again: a run
that was stopped goes on, and seeds can be added, on another machine too, to the figures in OUTPUT.

    RUN/data                         the dataset
       /sync                         the sync expert that after-wav2lip learns from; another judges
       /SEED/SYSTEM                  each trained system
       /SEED/SCORE/SYSTEM/CLIP.mp4   the baselines' dubs
       /SEED/SCORE/report            the evaluation of all systems
       /SEED/speed.json              frames a second of each, from file to file
    OUTPUT/SCORE.json                figures of every clip, system and seed

``scripts/write_results.py`` makes the tables of OUTPUT.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftalker import config as configs
from difftalker.core.files import write_whole
from difftalker.errors import DiffTalkerError, UsageError

BASELINES = ("after-wav2lip", "after-makeittalk", "after-daetalker")
WITHOUT_LANDMARKS, OURS = "difftalker-without-landmarks", "difftalker"
SYSTEMS = (*BASELINES, WITHOUT_LANDMARKS, OURS)
"""In the order of the paper's Table 1."""
ROWS = ("real", "copied", "own_audio", "other_audio")
TUNED = {"training.decoder.steps": "1"}
"""The decoder is a stage of the default, though not of ``half``; its time is a share of all."""
SETTINGS: Mapping[str, Mapping[str, str]] = {
    WITHOUT_LANDMARKS: {**TUNED, "model.synthesis.guidance": "audio"},
    OURS: TUNED,
}
"""What differs between ours: without landmarks, speech features take the place of the prompt."""
SYNC_SHARE = 0.5
"""Time of the sync expert, of a system's: it is trained once."""
TIMED_CLIPS = 3
"""So many clips are dubbed to measure the speed."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all systems share."""

    footage: tuple[Path, ...]
    clips: tuple[str, ...]
    scores: Mapping[str, tuple[str, ...]]
    """Clips to measure, by the name of their set."""
    run: Path
    output: Path
    consent: str
    source: str
    preset: str
    minutes: float
    seeds: tuple[int, ...]
    alignments: Path | None
    syncnet: Path | None
    device: str
    threads: int


class Steps:
    """Counts what is to be done, and says how far it is."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def __call__(self, what: str) -> None:
        """Say what begins."""
        self._done += 1
        print(f"[{self._done}/{self._total}] {time.strftime('%H:%M')} {what}", file=sys.stderr)


def main(words: Sequence[str] | None = None) -> int:
    """Train what is missing, measure what is missing, write the figures; 1 where that failed."""
    try:
        run(arguments(words))
    except DiffTalkerError as error:
        print(f"table1: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(options: Options) -> None:
    """All of it."""
    step = Steps(2 + len(options.seeds) * (len(SYSTEMS) + 1 + len(options.scores)))
    prepare_data(options, step)
    train_sync(options, step)
    for seed in options.seeds:
        for name in SYSTEMS:
            train_system(name, seed, options, step)
        measure_speed(seed, options, step)
        for score in options.scores:
            measure(score, seed, options, step)
    for score in options.scores:
        path = options.output / f"{score}.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        figures = joined(known, merged(score, options))
        options.output.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(figures, indent=1) + "\n")


def prepare_data(options: Options, step: Steps) -> None:
    """The dataset that all learn from."""
    from difftalker.data.footage import find_footage
    from difftalker.data.prepare import PrepareConfig, prepare

    step("the dataset")
    folder, config = options.run / "data", configs.preset(options.preset)
    if (folder / "manifest.json").is_file():
        return
    features = tuple(dict.fromkeys((config.model.completion.features, "whisper-short", "mel")))
    videos = find_footage(options.footage, options.clips)
    prepare(videos, folder, PrepareConfig(size_px=config.model.size_px, features=features))


def train_sync(options: Options, step: Steps) -> None:
    """A sync expert that judges nothing here."""
    from difftalker.training.experts import train_expert

    minutes = options.minutes * SYNC_SHARE
    step(f"the sync expert that after-wav2lip learns from: {minutes:g} minutes")
    folder = options.run / "sync"
    if not folder.is_dir():
        train_expert(
            "sync",
            options.run / "data",
            folder,
            minutes=minutes,
            command=command(),
            seed=1000,
            device=options.device,
            threads=options.threads,
        )


def train_system(name: str, seed: int, options: Options, step: Steps) -> None:
    """One system with one seed."""
    from difftalker.baselines import systems
    from difftalker.training import api

    step(f"seed {seed}: {name}: {options.minutes:g} minutes")
    output, data = options.run / str(seed) / name, options.run / "data"
    if output.is_dir():
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    if name in BASELINES:
        systems.train(
            name,
            data,
            output,
            sync=options.run / "sync",
            minutes=options.minutes,
            command=command(),
            seed=seed,
            device=options.device,
            threads=options.threads,
        )
        return
    api.train(
        [data],
        output,
        consent=options.consent,
        source=options.source,
        preset=options.preset,
        quality="best",
        start="none",
        minutes=options.minutes,
        settings=SETTINGS[name],
        command=command(),
        seed=seed,
        device=options.device,
        threads=options.threads,
    )


def dub(name: str, seed: int, clip: Path, output: Path, options: Options) -> float:
    """Dub a clip with its own sound, as the networks make it; frames a second."""
    from difftalker.baselines import dub as baseline_dub
    from difftalker.baselines import systems
    from difftalker.core.device import pick_device
    from difftalker.dubbing.avatar import load
    from difftalker.marks.marking import UNMARKED

    folder, device = options.run / str(seed) / name, pick_device(options.device)
    if name in BASELINES:
        made = baseline_dub.dub(
            systems.load(folder, device=device), clip, clip, output, marks=UNMARKED, seed=seed
        )
        return made.frames / made.seconds
    avatar, began = load(folder, device=device), time.monotonic()
    result = avatar.dub(clip, clip, seed=seed).save(output, marks=UNMARKED)
    return result.frames / (time.monotonic() - began)


def measure_speed(seed: int, options: Options, step: Steps) -> None:
    """How fast each system dubs, from file to file, with the same threads; one after the other."""
    import tempfile

    from difftalker.core.device import use_threads

    step(f"seed {seed}: speed")
    path = options.run / str(seed) / "speed.json"
    if path.is_file():
        return
    use_threads(options.threads)
    clips = scored_clips(next(iter(options.scores)), options)[:TIMED_CLIPS]
    with tempfile.TemporaryDirectory(prefix="difftalker-") as scratch:
        rates = {
            name: [dub(name, seed, clip, Path(scratch) / "out.mp4", options) for clip in clips]
            for name in SYSTEMS
        }
    speed = {name: sorted(each)[len(each) // 2] for name, each in rates.items()}
    write_whole(path, json.dumps(speed, indent=1) + "\n")


def measure(score: str, seed: int, options: Options, step: Steps) -> None:
    """All systems of one seed on one set of clips."""
    from difftalker.evaluation.jobs import EvaluateJob

    step(f"seed {seed}: evaluation on {score}")
    folder = options.run / str(seed)
    report = folder / score / "report"
    if (report / "report.json").is_file():
        return
    for name in BASELINES:
        dubs = folder / score / name
        dubs.mkdir(parents=True, exist_ok=True)
        for clip in scored_clips(score, options):
            if not (output := dubs / f"{clip.stem}.mp4").is_file():
                dub(name, seed, clip, output, options)
    EvaluateJob(
        avatar=str(folder / OURS),
        footage=tuple(map(str, options.footage)),
        clips=options.scores[score],
        report=str(report),
        rows=ROWS,
        ablations=(f"{WITHOUT_LANDMARKS}={folder / WITHOUT_LANDMARKS}",),
        predictions=tuple(f"{name}={folder / score / name}" for name in BASELINES),
        renderer="diffusion",
        alignments=str(options.alignments) if options.alignments else None,
        syncnet=str(options.syncnet) if options.syncnet else None,
        seed=seed,
        device=options.device,
        threads=options.threads,
    ).run()


def scored_clips(score: str, options: Options) -> list[Path]:
    """The clips of a set."""
    from difftalker.data.footage import find_footage

    return find_footage(options.footage, options.scores[score])


# What is written


def merged(score: str, options: Options) -> dict[str, Any]:
    """The figures of every clip, system and seed, and what each system is."""
    reports = {seed: read(options, seed, score) for seed in options.seeds}
    first = reports[options.seeds[0]]
    names = [clip["name"] for clip in first["clips"]]
    rows = [row for row in first["rows"] if row != "own_audio"]
    per_clip = {
        (OURS if row == "own_audio" else row): {
            str(seed): {clip["name"]: clip.get("rows", {}).get(row, {}) for clip in report["clips"]}
            for seed, report in reports.items()
        }
        for row in ["own_audio", *rows]
    }
    return {
        "score": score,
        "clips": names,
        "seeds": list(options.seeds),
        "minutes": options.minutes,
        "sync_minutes": options.minutes * SYNC_SHARE,
        "size_px": first["avatar"]["size_px"],
        "clips_train": first["avatar"]["clips_train"],
        "preset": options.preset,
        "commands": {str(seed): command() for seed in options.seeds},
        "machines": {str(seed): report["machine"] for seed, report in reports.items()},
        "judges": {name: judge.get("sha256") for name, judge in first["judges"].items()},
        "systems": {name: dict(facts_of(name, options)) for name in SYSTEMS},
        "figures": per_clip,
    }


def read(options: Options, seed: int, score: str) -> dict[str, Any]:
    """The report of one seed."""
    path = options.run / str(seed) / score / "report" / "report.json"
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def facts_of(name: str, options: Options) -> Iterator[tuple[str, Any]]:
    """Parameters; of each seed the steps and minutes of training, and frames a second."""
    from difftalker.core.weights import shapes

    folders = {str(seed): options.run / str(seed) / name for seed in options.seeds}
    files = sorted(next(iter(folders.values())).glob("*.safetensors"))
    yield "parameters", sum(product(shape) for path in files for shape in shapes(path).values())
    stages = {
        seed: json.loads((folder / "config.json").read_text(encoding="utf-8"))["facts"]["stages"]
        for seed, folder in folders.items()
    }
    yield (
        "steps",
        {
            seed: {stage: one["steps"] for stage, one in each.items()}
            for seed, each in stages.items()
        },
    )
    yield (
        "minutes",
        {seed: sum(one["minutes"] for one in each.values()) for seed, each in stages.items()},
    )
    yield (
        "fps",
        {
            seed: json.loads((folder.parent / "speed.json").read_text())[name]
            for seed, folder in folders.items()
        },
    )


BY_SEED = ("commands", "machines")
SAME = ("clips", "minutes", "size_px", "clips_train", "preset", "judges")
"""What the seeds of one table share."""


def joined(known: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The seeds that were measured before and the new ones, which take the place of the same.

    Raises:
        UsageError: they are no seeds of one table.
    """
    if known is None:
        return new
    for key in SAME:
        if known.get(key) != new[key]:
            raise UsageError(
                f"{key} of the seeds there are: {known.get(key)}, now {new[key]}",
                wanted="the same for all seeds of a table",
                fix="give another folder as --output",
            )
    for name, system in new["systems"].items():
        of = known["systems"][name]
        for key in ("steps", "minutes", "fps"):
            system[key] = dict(sorted((of[key] | system[key]).items()))
    for name, by_seed in new["figures"].items():
        new["figures"][name] = dict(sorted((known["figures"].get(name, {}) | by_seed).items()))
    for key in BY_SEED:
        new[key] = dict(sorted((known[key] | new[key]).items()))
    return new | {"seeds": sorted({*known["seeds"], *new["seeds"]})}


def product(shape: Sequence[int]) -> int:
    """How many numbers a tensor has."""
    count = 1
    for side in shape:
        count *= side
    return count


def command() -> str:
    """What was typed."""
    return shlex.join(["python", "scripts/table1.py", *sys.argv[1:]])


def arguments(words: Sequence[str] | None) -> Options:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("footage", type=Path, nargs="+", help="videos, or folders of them")
    parser.add_argument("--clips", action="append", default=[], help="to learn from")
    parser.add_argument(
        "--score", action="append", required=True, metavar="NAME=CLIPS",
        help="a set of clips to measure, such as test=FILE.json:test; may be given several times",
    )  # fmt: skip
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--consent", required=True, help="who agreed, and how")
    parser.add_argument("--source", default="", help="corpus and licence of the footage")
    parser.add_argument("--preset", default="half", choices=sorted(configs.PRESETS))
    parser.add_argument("--minutes", type=float, default=60.0, help="for each system and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--alignments", type=Path, help="a folder of GRID's word times")
    parser.add_argument("--syncnet", type=Path, help="SyncNet's official weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args(words)
    scores = dict(one.split("=", 1) for one in given.score if "=" in one)
    if len(scores) < len(given.score):
        parser.error(f"--score {given.score}: wanted NAME=CLIPS, such as test=FILE.json:test")
    return Options(
        footage=tuple(given.footage),
        clips=tuple(given.clips),
        scores={name: (clips,) for name, clips in scores.items()},
        run=given.run,
        output=given.output,
        consent=given.consent,
        source=given.source,
        preset=given.preset,
        minutes=given.minutes,
        seeds=tuple(given.seeds),
        alignments=given.alignments,
        syncnet=given.syncnet,
        device=given.device,
        threads=given.threads,
    )


if __name__ == "__main__":
    raise SystemExit(main())
