"""The avatar at the end of training: networks, facts and card, from what the stages left."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from difftalker.data.likeness import looks_of
from difftalker.store import avatars as avatar
from difftalker.training import artefacts
from difftalker.training.run import Run
from difftalker.training.stages import TABLE

APART_S = 0.04
"""An offset of sound and picture that a card counts: a frame of most footage."""


def save_avatar(
    run: Run, folder: Path, *, name: str, consent: str, source: str, command: str
) -> None:
    """Package a finished run: configuration, fp16 weights and card.

    Raises:
        TrainingError: a stage is not finished.
    """
    networks = run.sources.networks()
    facts = _facts(run)
    avatar.write(
        folder,
        name=name,
        config=networks.resolved(run.config.model),
        architecture=networks.architecture(),
        weights=networks.state(),
        calibration=replace(run.sources.calibration(), looks=looks_of(run.data.train)),
        facts={"consent": consent, "source": source, "command": command, **facts},
        card=card(name, consent, source, command, facts),
    )


def card(name: str, consent: str, source: str, command: str, facts: dict[str, Any]) -> str:
    """The avatar's card, Markdown: who, which footage, consent, licence, measured quality."""
    begun = facts["begun_at"]
    rows = [
        f"| {stage} | {f['steps']} | {f['minutes']:.0f} | {f['validation']} |"
        for stage, f in facts["stages"].items()
    ]
    return "\n".join(
        [
            f"# Avatar {name}",
            "",
            f"- Footage: {source}",
            f"- Consent: {consent}",
            f"- Trained by: `{command}`, seed {facts['seed']}, on {facts['date']}",
            f"- Clips: {facts['clips_train']} to learn from, {facts['clips_validation']} held out"
            f" ({', '.join(facts['validation_names'])})",
            *([f"- Sound: {facts['sound']}"] if facts["sound"] else []),
            *([f"- Speech and lips of others: {facts['people']}"] if facts["people"] else []),
            *(f"- Begun at: the avatar {a['name']}, whose footage is {a['source']}" for a in begun),
            "- Videos made with this avatar are generated; say so where you show them.",
            "",
            "| stage | steps | minutes | held-out numbers at the end |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _sound(run: Run) -> str:
    """What a card says of sound that is early or late; empty where that was not looked at."""
    found = run.sources.delays_s()
    own = [clip.name for clip in (*run.data.train, *run.data.validation)]
    apart_s = np.abs([found[name] for name in own if name in found])
    if not len(apart_s):
        return ""
    return (
        f"aligned with the lips; {(apart_s >= APART_S).sum()} of {len(apart_s)} clips were"
        f" {APART_S:.2f} s or more apart, {apart_s.max():.2f} s at most"
    )


def _facts(run: Run) -> dict[str, Any]:
    """What an avatar's card says; where an avatar is trained on, its steps and minutes add up."""
    stages, before = run.kept(), run.trained_on()
    for stage in TABLE:
        found = artefacts.load_facts(run.sources.folder(stage) / "artefact")
        if found and found.steps:
            numbers = ", ".join(f"{k} {v:.4g}" for k, v in found.validation.items())
            earlier = before.get(stage, {"steps": 0, "minutes": 0.0})
            stages[stage] = {
                "steps": earlier["steps"] + found.steps,
                "minutes": earlier["minutes"] + found.seconds / 60,
                "validation": numbers,
            }
    return {
        "stages": stages,
        "seed": run.options.seed,
        "date": date.today().isoformat(),
        "begun_at": run.ancestors(),
        "sound": _sound(run),
        "people": ", ".join(run.sources.people),
        "clips_train": len(run.data.train),
        "clips_validation": len(run.data.validation),
        "validation_names": [c.name for c in run.data.validation],
    }
