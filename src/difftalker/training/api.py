"""From footage to an avatar in one call: prepare, train the stages, write the avatar."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from difftalker.config import STAGES, Config
from difftalker.core.device import pick_device
from difftalker.core.jobs import Cancel, Event, OnEvent, Progress, never, no_event, reporting
from difftalker.data.checks import findings
from difftalker.data.dataset import ClipData
from difftalker.data.footage import Part, find_footage
from difftalker.data.prepare import (
    Manifest,
    PrepareConfig,
    load_manifest,
    prepare,
)
from difftalker.dubbing.avatar import load
from difftalker.errors import Cancelled, UsageError
from difftalker.evaluation import held_out
from difftalker.face.detect.people import Choice
from difftalker.store import avatars as avatar
from difftalker.training import processes
from difftalker.training.budget import left_minutes, with_budget
from difftalker.training.choices import (
    configured,
    is_dataset,
    minutes_of,
    with_quality,
    with_size,
)
from difftalker.training.export import save_avatar
from difftalker.training.init_from import NONE, Start
from difftalker.training.options import TrainOptions
from difftalker.training.preview import Preview
from difftalker.training.run import Run, no_look
from difftalker.training.task import Log

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run of training left."""

    avatar: Path | None
    """The avatar's folder; None while a stage is not finished."""
    run: Path
    """Checkpoints, logs and sheets."""
    dataset: Path
    clips: int
    rejected: list[dict[str, str]]
    """Footage that could not be used: ``source`` and ``reason``."""
    validation: dict[str, Log]
    """Each trained stage's numbers on clips held out."""
    unfinished: list[str]
    """Stages that have yet to be trained."""
    held_out: list[Part]
    """The footage that nothing was learned from; none of a prepared dataset, which has no video."""
    report: dict[str, Any] | None
    """The avatar's figures on it, which are on its card too
    (:func:`difftalker.evaluation.held_out.report_held_out`); None without either."""


def train(
    footage: Sequence[str | Path],
    output: str | Path,
    *,
    consent: str = "",
    preset: str = "tiny",
    completion: str = "default",
    features: str = "",
    quality: str = "auto",
    size: int | None = None,
    minutes: float | None = None,
    start: str = "",
    settings: Mapping[str, str] | None = None,
    stages: Sequence[str] = STAGES,
    face: str | int | Path = "largest",
    clips: Sequence[str] = (),
    people: str | Path | None = None,
    longest_s: float = 0.0,
    run: str | Path | None = None,
    name: str = "",
    source: str = "",
    command: str = "difftalker.train",
    seed: int = 0,
    device: str = "auto",
    threads: int = 0,
    on_event: OnEvent = no_event,
    cancel: Cancel = never,
) -> Trained:
    """Train an avatar on video files, folders of them, or one dataset made by ``prepare``.

    ``consent`` says who agreed to what; only some ``stages`` can be trained without. ``quality`` is
    ``best``, or ``light``: the light network without the diffusion and its hours; ``auto`` is the
    latter with preset tiny. ``size`` is the side of its crops, 256, 384 or 512 pixels; None: as
    large as the face in the footage. ``minutes`` is how long the call may take, with all its
    measurements; 0: until all steps are taken, None: an hour for the light network alone.
    ``features`` replace the preset's speech features
    (:data:`difftalker.config.FEATURE_OPTIONS`), ``settings``
    single values of it (``{"training.prior.steps": "200"}``).

    The networks begin at those of a packaged avatar, where it has the same ones, and then take a
    third of the preset's steps (:func:`difftalker.config.fine_tuned`). ``start`` names another
    avatar to begin at: its model is taken in the place of the preset's, and stages that are not
    chosen stay as they are in it. With ``start`` "none" they begin at random.

    ``face`` says whom to learn, where there are several
    people (:class:`difftalker.face.detect.people.Choice`), ``clips`` picks some of the footage
    (:func:`difftalker.data.footage.find_footage`), and ``longest_s`` how much of each is learned
    from, 0: all. ``people`` is a folder with a dataset of each of other people, whose speech and
    lips are learned as well: the avatar understands more voices. All intermediate work goes to the
    folder ``run``, by default ``OUTPUT-run``; a call that was stopped goes on from there. The
    avatar is written to ``output`` once every stage is finished; its card repeats ``name``,
    ``source`` (corpus and licence) and ``command``, and says how it does on footage that was held
    out.

    Processes that ``torchrun`` starts train together; the first one writes everything, and its
    result alone has an ``avatar``.

    ``on_event`` is called for each clip prepared, each step and each stage of the report, and
    ``cancel`` is asked there.

    Raises:
        UsageError: a setting or face is unknown or wrong, consent is missing, or the avatar
            ``start`` has other networks.
        AvatarError: ``output`` holds something that is no avatar.
        MediaError: no footage can be used.
        TrainingError: a loss is not finite, or the run was begun with other settings.
        Cancelled: ``cancel`` returned True; the same call goes on from there.
    """
    output = Path(output)
    folder = Path(run) if run else output.with_name(f"{output.name}-run")
    began, settings = time.monotonic(), with_quality(quality, preset, settings or {})
    paths, whom = [Path(path) for path in footage], Choice.parse(face)
    wanted = _checked_stages(stages)
    _check_consent(consent, wanted)
    avatar.check_replaceable(output)
    avatar.check_name(name or output.name)
    avatar.check_place(output)
    avatar.check_place(folder)
    minutes = minutes_of(minutes, preset, settings, stages)
    # What is wrong with the words is found before the footage is read.
    chosen, begun = configured(preset, completion, features, start, settings, folder)
    if (sized := with_size(size, preset, start, settings, paths, clips)) != settings:
        chosen, begun = configured(preset, completion, features, start, sized, folder)
    device = pick_device(device)
    with processes.joined(device):
        with processes.first_alone():
            dataset = _dataset(paths, clips, whom, longest_s, folder, chosen, on_event, cancel)
            if minutes:
                chosen = with_budget(chosen, minutes, (time.monotonic() - began) / 60, folder)
            options = TrainOptions(
                dataset=dataset,
                people=None if people is None else Path(people),
                run=folder,
                stages=wanted,
                start=begun.avatar,
                keep=start != "",
                seed=seed,
                device=device,
                threads=threads,
            )
            work = Run(chosen, options)
        _advise(work, begun, minutes)
        about = {"name": name, "source": source, "consent": consent, "command": command}
        look = _preview(work, output, about, _held_out(work, paths, clips), face, began)
        validation = work.train(on_event, cancel, look if minutes else no_look)
        if processes.rank():
            about["consent"] = ""  # the first process writes the avatar
        trained = _packaged(work, output, about, paths, clips, whom, validation, on_event, cancel)
        processes.wait()
    return trained


def _advise(work: Run, begun: Start, minutes: float) -> None:
    """Say what footage may lack, where the networks begin, and how long it takes."""
    if processes.rank():
        return
    features = work.config.model.completion.features
    lines = [*findings(work.data.train, features), _begins_from(begun, work, minutes)]
    if minutes:
        left = left_minutes(work.config, work.options.run, minutes)
        until = datetime.now() + timedelta(minutes=left)
        lines.append(f"training takes {left:.0f} minutes more, until about {until:%H:%M}")
    for line in lines:
        logger.warning("%s", line)


def _preview(
    work: Run,
    output: Path,
    about: Mapping[str, str],
    parts: Sequence[Part],
    face: str | int | Path,
    began: float,
) -> Preview:
    """What writes an early avatar."""
    facts = _card_facts(about, output, load_manifest(work.options.dataset))

    def save(folder: Path) -> None:
        save_avatar(work, folder, **facts)

    return Preview(work, save, parts, face=face, began=began)


def _packaged(
    work: Run,
    output: Path,
    about: Mapping[str, str],
    paths: Sequence[Path],
    clips: Sequence[str],
    whom: Choice,
    validation: dict[str, Log],
    on_event: OnEvent,
    cancel: Cancel,
) -> Trained:
    """Write the avatar if all stages are finished, and report on the footage held out."""
    options, manifest = work.options, load_manifest(work.options.dataset)
    parts, report, complete = _held_out(work, paths, clips), None, False
    if about["consent"] and not work.unfinished():
        save_avatar(work, output, **_card_facts(about, output, manifest))
        complete = True
        if parts:
            report = _reported(output, parts, options, whom, reporting(on_event, cancel))
    return Trained(
        avatar=output if complete else None,
        run=options.run,
        dataset=options.dataset,
        clips=len(manifest.clips),
        rejected=manifest.rejected,
        validation=validation,
        unfinished=work.unfinished(),
        held_out=parts,
        report=report,
    )


def _reported(
    folder: Path, parts: Sequence[Part], options: TrainOptions, face: Choice, progress: Progress
) -> dict[str, Any]:
    """The new avatar's figures on footage held out of its training, which go on its card."""
    figures = held_out.report_held_out(
        load(folder, device=options.device),
        parts,
        options.run,
        face=face,
        seed=options.seed,
        progress=progress,
    )
    if "error" not in figures:
        avatar.extend_card(folder, held_out.card_section(figures))
    return figures


def _begins_from(begun: Start, work: Run, minutes: float) -> str:
    """Where the networks begin, and why, in a line."""
    if not begun.avatar:
        return f"the networks begin at random: {begun.why}"
    light = "" if work.sources.faces is None else ", the light one at that of many faces"
    steps = "" if minutes else ", and take a third of the steps"
    return (
        f"the networks begin at those of the avatar {begun.avatar} ({begun.why}){light}{steps};"
        f" with --start {NONE} they begin at random"
    )


def _held_out(work: Run, footage: Sequence[Path], clips: Sequence[str]) -> list[Part]:
    """Where in the files what was held out lies."""
    if is_dataset(footage) or not work.config.training.validation_clips:
        return []
    files = {path.stem: path for path in find_footage(footage, clips)}
    return [_part(clip, files[clip.clip]) for clip in work.data.validation]


def _part(clip: ClipData, file: Path) -> Part:
    first, last = float(clip.times_s[0]), float(clip.times_s[-1])
    step = (last - first) / max(1, len(clip) - 1)
    return Part(footage=file, start_s=first, stop_s=last + step, whole=clip.name == clip.clip)


def _checked_stages(stages: Sequence[str]) -> tuple[str, ...]:
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise UsageError(f"no stage is called {unknown[0]!r}", wanted=" or ".join(STAGES))
    return tuple(stage for stage in STAGES if stage in stages) if stages else STAGES


def _check_consent(consent: str, stages: tuple[str, ...]) -> None:
    if stages == STAGES and not consent.strip():
        raise UsageError(
            "nothing says that the person agreed to this avatar",
            wanted='their consent in words, as in --consent "A. Person, by mail of 1 May 2025"',
            fix="ask them; without it only single stages can be trained",
        )


def _dataset(
    footage: Sequence[Path],
    clips: Sequence[str],
    face: Choice,
    longest_s: float,
    run: Path,
    config: Config,
    on_event: OnEvent,
    cancel: Cancel,
) -> Path:
    """The prepared dataset that is meant, or one made of the footage within the run's folder."""
    if is_dataset(footage):
        if clips:
            raise UsageError("a prepared dataset is used whole", fix="leave --clips out")
        if face != Choice(place="largest"):
            raise UsageError(
                "the faces of a prepared dataset are cut out already",
                fix="leave --face out, or give it to `difftalker prepare`",
            )
        return footage[0]
    model = config.model
    live = (model.live.features,) if config.training.live.steps else ()
    wanted = PrepareConfig(
        size_px=model.size_px,
        features=tuple(dict.fromkeys((model.completion.features, *live))),
        voices=config.training.voices,
        longest_s=longest_s,
    )

    def progress(done: int, total: int, text: str) -> None:
        on_event(Event(stage="prepare", done=done, total=total, text=text))
        if cancel():
            raise Cancelled("cancelled", fix="the same call goes on from here")

    prepare(find_footage(footage, clips), run / "data", wanted, face=face, progress=progress)
    return run / "data"


def _card_facts(about: Mapping[str, str], output: Path, manifest: Manifest) -> dict[str, str]:
    """Name, source, consent and command for the card; where not said, by the files."""
    defaults = {"name": output.name, "source": _source(manifest)}
    return {key: value or defaults.get(key, "") for key, value in about.items()}


def _source(manifest: Manifest, named: int = 5) -> str:
    names = [clip.source for clip in manifest.clips]
    more = f" and {len(names) - named} more" if len(names) > named else ""
    return ", ".join(names[:named]) + more
