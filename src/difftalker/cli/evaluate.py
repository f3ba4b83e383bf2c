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
    text_of,
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
    from difftalker.evaluation.jobs import EvaluateJob
    from difftalker.evaluation.report.table import table

    job = EvaluateJob(
        avatar=avatar,
        footage=tuple(map(str, footage)),
        report=str(report),
        face=face,
        clips=clips,
        rows=() if rows is None else tuple(rows.split(",")),
        ablations=ablation,
        predictions=predictions,
        renderer=renderer,
        sampler=sampler,
        steps=steps,
        alignments=text_of(alignments),
        sync=text_of(sync),
        syncnet=text_of(syncnet),
        alexnet=text_of(alexnet),
        seed=options.seed,
        device=options.device,
        threads=options.threads,
        limits=guards.limits,
    )
    with Bars("step") as bars:
        figures = job.run(bars.event)
    return Outcome({"report": report / "report.json", **figures}, table(figures))
