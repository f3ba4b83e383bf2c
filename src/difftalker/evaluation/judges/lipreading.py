"""Can the mouth be read? The lip reader's word error, on real and on generated mouths alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from difftalker.evaluation.footage import Crops, Figures, Footage, Output
from difftalker.evaluation.judges.base import JudgeOptions
from difftalker.experts.lip_reader import LipReader, LipReaderConfig, read
from difftalker.face.detect.track import FaceTrack
from difftalker.face.mouth import lip_points, mouth_views
from difftalker.speech.grid import GRAMMAR, read_alignment, sentence_of_name
from difftalker.store import experts as expert

SIZE_PX = 256
"""Side of the crops that mouths are cut from, pixels, as in training."""
SEEN_AT_LEAST = 0.5
"""Share of the frames that have to show a face, for a mouth to be read."""


class LipJudge:
    """``word_error``: share of the six words of a GRID sentence that are read wrongly.

    Reading is choosing one word for each place of the grammar. The reader sees lips alone and
    finds by itself when each word is said. Places whose word it has never learned are left out, and
    there is no figure where none is left.
    """

    name = "lips"
    measures = ("word_error",)

    def __init__(
        self, folder: str | Path = "", *, alignments: Path | None = None, device: str = "cpu"
    ) -> None:
        """The packaged expert, or that in ``folder``; ``alignments`` may have what is said.

        Raises:
            AssetError: it is missing or altered, or does not fit.
        """
        files = expert.read(folder, kind="lips")
        self._net = files.load_network(LipReader, LipReaderConfig).to(device)
        self._alignments = alignments
        # Experts that were made before words were stored know them all.
        self._learned = [frozenset(words) for words in files.facts.get("words", GRAMMAR)]
        never = [
            sorted({*slot} - known) for slot, known in zip(GRAMMAR, self._learned, strict=True)
        ]
        self.facts: Mapping[str, Any] = {
            "sha256": files.sha256,
            "unseen": files.facts.get("unseen"),
            "words_never_learned": [word for words in never for word in words],
        }

    @classmethod
    def opened(cls, options: JudgeOptions) -> Self | None:
        """The judge of an evaluation's options; None where its expert is not packaged."""
        if "lips" not in expert.packaged():
            return None
        return cls(alignments=options.alignments, device=options.device)

    def judge(self, clip: Footage, output: Output, made: FaceTrack) -> Figures:
        """The figures of one video; none where no sentence of GRID is heard."""
        said = None if output.voice is None else self._said(output.voice.path)
        if said is None or made.found.mean() < SEEN_AT_LEAST:
            return {}
        known = [i for i, word in enumerate(said) if word in self._learned[i]]
        if not known:
            return {}
        found = self.words(clip, output, made)
        return {"word_error": word_error([found[i] for i in known], [said[i] for i in known])}

    def words(self, clip: Footage, output: Output, made: FaceTrack) -> tuple[str, ...]:
        """What the mouth says, six words."""
        in_crop = clip.located.framing.crop.to_crop(filled(made.points_px))
        # The reader's own size: what an avatar sees must not decide how sharply it is read.
        own = Crops(output.video, clip.located, SIZE_PX)
        crops = clip.crops(output.video) if clip.size_px == SIZE_PX else own
        views = mouth_views(crops, in_crop * SIZE_PX)
        chances = read(self._net, views, lip_points(in_crop))
        return tuple(slot[int(p.argmax())] for slot, p in zip(GRAMMAR, chances, strict=True))

    def _said(self, voice: Path) -> tuple[str, ...] | None:
        """The words of a clip's sound: from its word times, or else from its name."""
        times = self._alignments / f"{voice.stem}.align" if self._alignments else None
        if times is None or not times.is_file():
            return sentence_of_name(voice.stem)
        words = tuple(word.text for word in read_alignment(times))
        fits = len(words) == len(GRAMMAR)
        return words if fits and all(map(tuple.__contains__, GRAMMAR, words)) else None


def word_error(found: Sequence[str], said: Sequence[str]) -> float:
    """Share of the words that differ, place by place.

    With one word for each place this is the word error rate: no word can be put in or left out.
    """
    if len(found) != len(said):
        raise ValueError(f"{len(found)} words against {len(said)}")
    return sum(a != b for a, b in zip(found, said, strict=True)) / len(said)


def filled(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(F, n, 2) with frames that are not numbers -> without: interpolated, at the ends repeated."""
    known = np.flatnonzero(np.isfinite(points).all((1, 2)))
    frames, flat = np.arange(len(points)), points.reshape(len(points), -1)
    columns = [np.interp(frames, known, column[known]) for column in flat.T]
    return np.stack(columns, 1).reshape(points.shape).astype(np.float32)
