"""``difftalker evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from difftalker.cli.common import (
    COMPUTE,
    GUARDS,
    AtLeast1,
    Bars,
    Compute,
    Guards,
    List,
    Outcome,
    RendererName,
)


def evaluate(
    avatar: str,
    /,
    *footage: Path,
    report: Path,
    face: str = "largest",
    clips: Annotated[tuple[str, ...], List] = (),
    rows: str | None = None,
    ablation: Annotated[tuple[str, ...], List] = (),
    predictions: Annotated[tuple[str, ...], List] = (),
    renderer: RendererName = "auto",
    sampler: str | None = None,
    steps: AtLeast1 | None = None,
    alignments: Path | None = None,
    sync: Path | None = None,
    syncnet: Path | None = None,
    alexnet: Path | None = None,
    guards: Guards = GUARDS,
    options: Compute = COMPUTE,
) -> Outcome:
    """Measure an avatar on footage it has not seen, dubbed with its own and with other speech.

    Args:
        avatar: A packaged avatar's name, or a folder made by `difftalker train`.
        footage: Video files, or folders of them.
        report: The folder for report.json, report.html (to read, one file), figures and videos.
        face: Whose face, of several people: largest, leftmost, rightmost, center, a number
            (counted as they come in, those who come together from left to right), or a picture.
        clips: Only this one of the videos, by its name without suffix; FILE.json:KEY for a list
            of names in a JSON file. May be given several times.
        rows: What to measure, separated by commas: real, copied, own_audio, other_audio, silence;
            by default all.
        ablation: One more row, NAME=AVATAR: another avatar that dubs the same clips with their own
            sound. May be given several times.
        predictions: One more row, NAME=FOLDER or FOLDER: the videos that another program made of
            the same clips with their own sound, FOLDER/CLIP.mp4; frame rate, number of frames and
            size may differ. May be given several times.
        renderer: diffusion or light; auto is the diffusion where the processor is fast in bfloat16
            or there is a GPU, else light.
        sampler: ddpm, ddim or dpm++; by default each avatar's own.
        steps: Steps of denoising; by default each avatar's own.
        alignments: A folder of GRID's word times (`CLIP.align`): with them the closing of the
            lips at p, b and m is measured.
        sync: A sync expert made by `difftalker train-expert sync`; by default the packaged one.
        syncnet: SyncNet's official weights, syncnet_v2.model, for LSE-C and LSE-D.
        alexnet: AlexNet's weights as torchvision has them, for LPIPS in place of ST-LPIPS.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    from difftalker.core.device import pick_device, use_threads
    from difftalker.data.footage import find_footage
    from difftalker.dubbing.avatar import load
    from difftalker.evaluation import run
    from difftalker.evaluation.judges.base import JudgeOptions
    from difftalker.evaluation.judges.table import open_judges
    from difftalker.evaluation.report.table import table
    from difftalker.evaluation.systems import named_paths
    from difftalker.face.detect.people import Choice

    whom = Choice.parse(face)
    videos = find_footage(footage, clips)
    use_threads(options.threads)
    device = pick_device(options.device)
    judges = open_judges(
        JudgeOptions(
            device=device, alignments=alignments, sync=sync, syncnet=syncnet, alexnet=alexnet
        )
    )
    speaker = load(avatar, device=device)
    others = {name: load(one, device=device) for name, one in named_paths(ablation).items()}
    programs = {name: Path(one) for name, one in named_paths(predictions).items()}
    with Bars("step") as bars:
        figures = run.evaluate(
            speaker,
            videos,
            report,
            rows=None if rows is None else rows.split(","),
            ablations=others,
            predictions=programs,
            judges=judges,
            face=whom,
            renderer=renderer,
            sampler=sampler,
            steps=steps,
            seed=options.seed,
            progress=bars,
        )
    return Outcome({"report": report / "report.json", **figures}, table(figures))
