"""Training the lip reader: words, where they stand, and the speech around them.

Little footage has to do, so examples are made up from it: words of other clips take the place of
a clip's own, at another speed, and pictures are moved, turned, mirrored, blurred and lit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from difftalker.config import StageConfig
from difftalker.data.dataset import ClipData, Dataset
from difftalker.errors import TrainingError, UsageError
from difftalker.experts.lip_reader import VIEW_PX, LipReader, LipReaderConfig, mirrored, read
from difftalker.face.mouth import lip_points, mouth_views
from difftalker.speech.grid import (
    GRAMMAR,
    PHONES,
    PRONUNCIATIONS,
    SLOTS,
    Word,
    choices,
    read_alignment,
)
from difftalker.training.expert_job import ExpertJob, ExpertOptions
from difftalker.training.faces_task import balanced

ABOUT = """Reads the words of a GRID sentence from pictures of the mouth and its landmarks; without
sound. Reading is choosing one word for each of the six places of GRID's grammar."""
STAGE = StageConfig(
    steps=900, batch=16, learning_rate=1.5e-3, ema=0.99, weight_decay=0.05, validate_every=100,
    checkpoint_every=50,
)  # fmt: skip

FRAMES = 60
"""Length of an example, frames; a sentence takes 25 to 45."""
FEATURES = "whisper-short"

SMOOTHING = 0.1
"""Label smoothing of the words."""
WHERE_WEIGHT, PHONES_WEIGHT, HEARD_WEIGHT = 0.5, 0.3, 0.3
"""Weights of the auxiliary losses, beside that of the words."""

LETTER_SPLICE, OTHER_SPLICE = 0.7, 0.2
"""How often a word is taken from another clip."""
BALANCE = 1.0
"""How far the letters of such clips are evened out: 0 as often as they occur, 1 alike."""
ANYONE = 0.5
"""How often such a clip may be of another person."""
RAREST = 2
"""How many times the clips of one person count, where others have more."""


class SpokenClip:
    """A clip whose words and their times are known, as the reader learns from it."""

    def __init__(self, clip: ClipData, words: Sequence[Word], *, features: str = FEATURES) -> None:
        self.name, self.person, self.words = clip.name, clip.person, words
        self.chosen = np.array(choices([word.text for word in words]))
        size = clip.frames.shape[1]
        self.views = mouth_views(clip.frames, clip.points_crop * size)
        self.points = lip_points(clip.points_crop)
        self.heard = clip.windows(features, 2).reshape(len(clip), -1)
        self.phones = frame_phones(words, clip.times_s)
        edges = [(w.start_s, w.stop_s) for w in words]
        last = float(clip.times_s[-1] + clip.times_s[1])
        self.edges = np.array([0.0, *(e[0] for e in edges), edges[-1][1], last]) / clip.times_s[1]

    def __len__(self) -> int:
        return len(self.views)


def job(data: Dataset, options: ExpertOptions) -> ExpertJob:
    """What ``difftalker train-expert lips`` trains."""
    if options.alignments is None:
        raise UsageError(
            "the lip reader learns from word times", wanted="--alignments FOLDER with .align files"
        )
    train, watched = (
        [spoken_clip(clip, options.alignments) for clip in clips]
        for clips in (data.train, data.validation)
    )
    config = LipReaderConfig()
    people = sorted({clip.person for clip in data.train if clip.person}) or ["s1"]
    task = LipsTask(LipReader(config).to(options.device), train, watched, device=options.device)
    return ExpertJob(
        task=task,
        stage=STAGE,
        config=asdict(config),
        unseen=task.validate,
        about=ABOUT,
        corpora="GRID audiovisual sentence corpus (Cooke et al. 2006), "
        f"speaker{'s' * (len(people) > 1)} {', '.join(people)}, CC BY 4.0",
        facts={"words": [list(words) for words in task.words_learned]},
    )


def spoken_clip(clip: ClipData, alignments: Path) -> SpokenClip:
    """A clip with its word times, from FOLDER/CLIP.align or FOLDER/PERSON/CLIP.align."""
    return SpokenClip(clip, read_alignment(alignments / f"{clip.name}.align"))


def frame_phones(words: Sequence[Word], times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """(F,): the sound at each frame, an index of PHONES, or their number for silence.

    Within a word all sounds are taken to be of the same length.
    """
    found = np.full(len(times_s), len(PHONES), np.int64)
    middle = times_s + times_s[1] / 2
    for word in words:
        phones = PRONUNCIATIONS[word.text]
        edges = np.linspace(word.start_s, word.stop_s, len(phones) + 1)
        for phone, start, stop in zip(phones, edges[:-1], edges[1:], strict=True):
            found[(middle >= start) & (middle < stop)] = PHONES.index(phone)
    return found


@dataclass
class _Example:
    views: NDArray[np.uint8]
    points: NDArray[np.float32]
    heard: NDArray[np.float32]
    phones: NDArray[np.int64]
    words: NDArray[np.int64]
    where: NDArray[np.float32]


class LipsTask:
    """Words, their places, sounds and speech features, from the mouth."""

    name = "lips"

    def __init__(
        self,
        model: LipReader,
        train: Sequence[SpokenClip],
        watched: Sequence[SpokenClip],
        *,
        device: str = "cpu",
    ) -> None:
        self.model, self.device = model, device
        self._clips, self._watched = train, watched
        if not train:
            raise TrainingError("there is no clip to learn from", wanted="one at least")
        self._people = [clip.person for clip in train]
        rows = np.stack([np.arange(len(train)), np.zeros(len(train), np.int64)], 1)
        self._index = balanced(rows, self._people, RAREST)[:, 0]
        self.examples = len(self._index)
        letter = SLOTS.index("letter")
        counts = np.bincount([c.chosen[letter] for c in train], minlength=len(GRAMMAR[letter]))
        weights = np.array([float(counts[c.chosen[letter]]) ** -BALANCE for c in train])
        of = np.array(self._people)
        own = {person: weights * (of == person) for person in dict.fromkeys(self._people)}
        self._letter_shares = {person: one / one.sum() for person, one in own.items()}
        self._all_letter_shares = weights / weights.sum()
        self._clips_of = {person: np.flatnonzero(of == person) for person in own}

    @property
    def words_learned(self) -> list[tuple[str, ...]]:
        """The words of each place that are said in the clips it learns from."""
        chosen = np.array([clip.chosen for clip in self._clips])
        return [
            tuple(words[i] for i in np.unique(chosen[:, slot]))
            for slot, words in enumerate(GRAMMAR)
        ]

    fitted = ("mean_points",)
    """Buffers of the model that ``fit`` sets; see ``trainer.Fits``."""

    def fit(self) -> None:
        """Set the mean landmarks of the lips."""
        points = np.concatenate([clip.points for clip in self._clips]).mean(0)
        self.model.mean_points.copy_(torch.from_numpy(points))

    def prepare(self) -> None:
        """Measure the scale of the speech features; see ``trainer.Prepares``."""
        heard = np.concatenate([clip.heard for clip in self._clips])
        self._heard_mean, self._heard_std = heard.mean(0), heard.std(0) + 1e-3

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """Examples on the device; see ``trainer.Task``."""
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        made = [self._example(int(i), rng) for i in self._index[indices]]
        views = torch.from_numpy(np.stack([m.views for m in made]))
        points = torch.from_numpy(np.stack([m.points for m in made]))
        views, points = augment(views, points, generator)
        return {
            "views": views.to(self.device),
            "points": points.to(self.device),
            **{
                key: torch.from_numpy(np.stack([getattr(m, key) for m in made])).to(self.device)
                for key in ("heard", "phones", "words", "where")
            },
        }

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of this stage; see ``trainer.Task``."""
        read = self.model(batch["views"], batch["points"])
        per_slot = [
            nnf.cross_entropy(logits, batch["words"][:, slot], label_smoothing=SMOOTHING)
            for slot, logits in enumerate(read.words)
        ]
        words = torch.stack(per_slot).mean()
        log_where = read.where.flatten(2).log_softmax(1)
        where = -(batch["where"].flatten(2) * log_where).sum(1).mean()
        phones = nnf.cross_entropy(read.phones.flatten(0, 1), batch["phones"].flatten())
        heard = (read.heard - batch["heard"]).square().mean()
        total = words + WHERE_WEIGHT * where + PHONES_WEIGHT * phones + HEARD_WEIGHT * heard
        return {"loss": total, "words": words, "where": where, "phones": phones, "heard": heard}

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """Names of the clips; see ``trainer.Task``."""
        return [self._clips[int(i)].name for i in self._index[indices]]

    def validate(self) -> dict[str, float]:
        """Word errors on the clips held out: of all places, each, each command and person."""
        said = [
            [int(w.argmax()) for w in read(self.model, c.views, c.points)] for c in self._watched
        ]
        right = np.array([c.chosen for c in self._watched])
        wrong = np.array(said) != right
        figures = {"word_error": float(wrong.mean())}
        for slot, name in enumerate(SLOTS):
            figures[f"word_error_{name}"] = float(wrong[:, slot].mean())
        command = SLOTS.index("command")
        for i in np.unique(right[:, command]):
            name = GRAMMAR[command][i]
            figures[f"word_error_{name}"] = float(wrong[right[:, command] == i].mean())
        people = np.array([clip.person for clip in self._watched])
        for person in sorted({*people.tolist()} - {""}):
            figures[f"word_error_{person}"] = float(wrong[people == person].mean())
        return figures

    def sheet(self) -> None:
        """No picture."""
        return

    def _example(self, index: int, rng: np.random.Generator) -> _Example:
        """One made-up clip: own and other clips' words, one after the other."""
        own = self._clips[index]
        sources = [own] * (len(SLOTS) + 2)
        for slot, name in enumerate(SLOTS):
            if rng.random() < (LETTER_SPLICE if name == "letter" else OTHER_SPLICE):
                sources[slot + 1] = self._other(own.person, name == "letter", rng)
        clips, frames, edges = spliced(sources, FRAMES, rng)
        whole = [(c, f) for c, f in zip(clips, frames, strict=True)]
        heard = np.stack([c.heard[f] for c, f in whole])
        return _Example(
            views=np.stack([c.views[f] for c, f in whole]),
            points=np.stack([c.points[f] for c, f in whole]),
            heard=((heard - self._heard_mean) / self._heard_std).astype(np.float32),
            phones=np.array([c.phones[f] for c, f in whole]),
            words=np.array([c.chosen[slot] for slot, c in enumerate(sources[1:-1])]),
            where=part_shares(edges, FRAMES, self.model.config.parts),
        )

    def _other(self, person: str, letter: bool, rng: np.random.Generator) -> SpokenClip:
        """A clip, of the person or of anyone; its letter is to be used, or another word."""
        anyone = rng.random() < ANYONE
        if letter:
            shares = self._all_letter_shares if anyone else self._letter_shares[person]
            return self._clips[rng.choice(len(self._clips), p=shares)]
        return self._clips[rng.choice(len(self._clips) if anyone else self._clips_of[person])]


def spliced(
    sources: Sequence[SpokenClip], frames: int, rng: np.random.Generator
) -> tuple[list[SpokenClip], list[int], NDArray[np.float64]]:
    """Which clip and frame each of ``frames`` shows, and where the six words begin and end.

    ``sources``: whose silence, six words and silence are strung together, each at its own speed.
    """
    lengths = np.array([s.edges[i + 1] - s.edges[i] for i, s in enumerate(sources)])
    speeds = np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.12, len(lengths)))
    starts = np.concatenate([[0.0], np.cumsum(lengths * speeds)])
    room = frames - (starts[-2] - starts[1])
    starts += rng.uniform(min(4, room / 2), max(room - 4, room / 2)) - starts[1]
    clips, places = [], []
    for t in range(frames):
        i = int(np.clip(np.searchsorted(starts, t + 0.5, "right") - 1, 0, len(sources) - 1))
        source = sources[i]
        place = source.edges[i] + (t + 0.5 - starts[i]) / speeds[i]
        clips.append(source)
        places.append(int(np.clip(place, 0, len(source) - 1)))
    return clips, places, starts[1:-1]


def part_shares(edges: NDArray[np.float64], frames: int, parts: int) -> NDArray[np.float32]:
    """(frames, 6, parts): how much of each equal part of each word falls on each frame; sums to 1.

    ``edges`` (7,): where words begin and the last ends, in frames.
    """
    at = np.arange(frames + 1)
    shares = np.zeros((frames, len(edges) - 1, parts))
    for slot in range(len(edges) - 1):
        cuts = np.linspace(edges[slot], edges[slot + 1], parts + 1).clip(0, frames)
        for part in range(parts):
            low, high = cuts[part], max(cuts[part + 1], cuts[part] + 1e-3)
            shares[:, slot, part] = np.diff(at.clip(low, high))
    shares /= np.maximum(shares.sum(0, keepdims=True), 1e-9)
    return shares.astype(np.float32)


def augment(views: Tensor, points: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Views (B, F, 56, 72) uint8 and points (B, F, 31, 2), varied, one way a clip.

    Returns views (B, F, 48, 64), 0 to 255.
    """
    count, frames = views.shape[:2]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    mirror = uniform(count) < 0.5
    points = torch.where(mirror[:, None, None, None], mirrored(points), points)
    points = points * (1 + 0.04 * normal(count, 1, 1, 2)) + 0.02 * normal(count, 1, 1, 2)
    points = points + 0.006 * normal(*points.shape)
    pictures = _moved(views.float(), mirror, normal)
    pictures = _blurred(pictures, uniform(count) * 1.2)
    gain = torch.exp(0.15 * normal(count, 1, 1, 1))
    pictures = pictures * gain + 4 * uniform(count, 1, 1, 1) * normal(*pictures.shape)
    for _ in range(2):  # some frames go unseen
        start, length = (uniform(count) * frames).long(), (uniform(count) * 5).long()
        at = torch.arange(frames)
        hidden = (at >= start[:, None]) & (at < (start + length)[:, None])
        mean = pictures.mean(1, keepdim=True)
        pictures = torch.where(hidden[:, :, None, None], mean, pictures)
        points = torch.where(hidden[:, :, None, None], points.mean(1, keepdim=True), points)
    blind = uniform(count, 1, 1, 1)
    pictures = torch.where(blind < 0.08, pictures.mean(1, keepdim=True), pictures)
    points = torch.where(blind > 0.85, points.mean(1, keepdim=True), points)
    return pictures, points


def _moved(views: Tensor, mirror: Tensor, normal: Callable[..., Tensor]) -> Tensor:
    """Turned, scaled, shifted, mirrored and cut to what the network sees."""
    count, _, height, width = views.shape
    angle, scale = 0.04 * normal(count), torch.exp(0.05 * normal(count, 2))
    sign = torch.where(mirror, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    to_x, to_y = VIEW_PX[1] / width, VIEW_PX[0] / height
    ratio = height / width
    shift = 0.045 * normal(count, 2)
    rows = [
        torch.stack([cos * scale[:, 0] * to_x * sign, -sin * ratio * to_y, shift[:, 0]], 1),
        torch.stack([sin / ratio * to_x * sign, cos * scale[:, 1] * to_y, shift[:, 1]], 1),
    ]
    grid = nnf.affine_grid(torch.stack(rows, 1), [count, 1, *VIEW_PX], align_corners=False)
    return nnf.grid_sample(views, grid, padding_mode="border", align_corners=False)


def _blurred(pictures: Tensor, sigmas: Tensor) -> Tensor:
    """Each clip by a Gaussian of its own."""
    at = torch.arange(-2, 3).float()
    kernels = torch.exp(-0.5 * (at / sigmas.clamp(min=0.05)[:, None]) ** 2)
    kernels = kernels / kernels.sum(1, keepdim=True)
    count = len(pictures)
    rows = pictures.transpose(0, 1)
    kernel = kernels[:, None]
    rows = nnf.conv2d(nnf.pad(rows, (2, 2, 0, 0), "replicate"), kernel[:, :, None], groups=count)
    rows = nnf.conv2d(nnf.pad(rows, (0, 0, 2, 2), "replicate"), kernel[..., None], groups=count)
    return rows.transpose(0, 1)
