"""How well are landmarks completed of clips that the fit has not seen?

    python scripts/measure_completion.py DATASET --folds 4

Each part of a prepared dataset is completed by fits to the other parts (no transformers, which add
little, nothing rendered, no hold in silence), in all the voices that the dataset holds. Prints, for
each kind of fit, the mean error of the lower landmarks (crop units) and the correlation of the
lips' opening with the one seen: under the clip's own sound, as it is and aligned with the
lips; under the next clip's; and under its own in another voice.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from difftalker import config as configs
from difftalker.data.dataset import ClipData, load_dataset
from difftalker.face.landmarks import LOWER
from difftalker.face.lips import relative_opening
from difftalker.landmarks.completion import CompletionNet
from difftalker.metrics import correlation
from difftalker.training.cross_fit import align_sound, complete, fitted

COLUMNS = (
    "error",
    "own sound",
    "aligned",
    "next clip's",
    "other voice",
    "other voice, next clip's",
)


def opens(net: CompletionNet, clip: ClipData, heard: ClipData, voice: int) -> tuple[float, float]:
    """Error (of its own sound), and correlation of the opening under another clip's sound."""
    windows = heard.windows(net.config.features, net.config.window, voice)
    frames = min(len(clip), len(heard))
    both = clip.found[:frames] & heard.found[:frames]
    made = complete(net, clip.points_crop[:frames], windows[:frames])[both]
    wanted = heard.points_crop[:frames][both]
    error = np.linalg.norm(made - wanted, axis=-1)[:, list(LOWER)].mean()
    return float(error), correlation(relative_opening(made), relative_opening(wanted))


def figures(
    net: CompletionNet, clips: Sequence[ClipData], delays_s: dict[str, float]
) -> Iterator[tuple[float, ...]]:
    """A row for each clip, in the order of ``COLUMNS``."""
    others = 1 if clips[0].voices(net.config.features) else 0
    for clip, following in zip(clips, [*clips[1:], clips[0]], strict=True):
        clip.delay_s = 0.0
        error, own = opens(net, clip, clip, 0)
        for one in (clip, following):
            one.delay_s = delays_s[one.name]
        pairs = ((clip, 0), (following, 0), (clip, others), (following, others))
        yield error, own, *(opens(net, clip, heard, voice)[1] for heard, voice in pairs)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--folds", type=int, default=4)
    options = parser.parse_args()
    config = configs.tiny().model.completion
    clips = load_dataset(options.dataset, validation_clips=0).train
    align_sound(config, clips)
    delays_s = {clip.name: clip.delay_s for clip in clips}
    apart_s = np.abs(list(delays_s.values()))
    print(f"{len(clips)} clips, {(apart_s >= 0.02).sum()} of them 0.02 s or more out of step")
    print(f"{'':28}" + "  ".join(COLUMNS))
    kinds = {"least squares": False, "and openings from speech": True}
    for kind, from_speech in kinds.items():
        rows: list[tuple[float, ...]] = []
        for fold in range(options.folds):
            for clip in clips:
                clip.delay_s = delays_s[clip.name]
            known = [clip for i, clip in enumerate(clips) if i % options.folds != fold]
            windows = [c.windows_of_all(config.features, config.window) for c in known]
            net = fitted(replace(config, opening_from_speech=from_speech), known, windows)
            rows += figures(net, clips[fold :: options.folds], delays_s)
        means = np.nanmean(np.array(rows), 0)
        cells = [f"{m:{len(name)}.{5 if name == 'error' else 4}f}" for m, name in
                 zip(means, COLUMNS, strict=True)]  # fmt: skip
        print(f"{kind:28}" + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
