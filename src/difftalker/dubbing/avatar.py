"""Dubbing, stage by stage, in the order of the data flow; every stage streams.

locate      footage -> where the face is, frame by frame (small: points, crops, mask boxes)
hear        sound   -> windows of speech features, one a frame
complete    upper points + windows -> all 68 points
paint       crops with the lower face painted out + points -> crops with a new lower face
            matched in light, colour and grain, laid into the frames (dubbing.render_loop)
write       frames and times as they were, with the new sound
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker import __version__
from difftalker.config import (
    DEFAULT_CRF,
    DEFAULT_FPS,
    CompletionConfig,
    ModelConfig,
    SamplingConfig,
)
from difftalker.core.allocator import give_back
from difftalker.core.device import autocast, has_fast_bfloat16
from difftalker.core.hashing import sha256_of
from difftalker.dubbing.load_checked import restore
from difftalker.dubbing.networks import Networks
from difftalker.dubbing.render_loop import CHUNK_FRAMES, Painter, Scene
from difftalker.dubbing.talk import Talk
from difftalker.errors import AvatarError, MediaError, TrackError, UsageError
from difftalker.face.compose.blend import RING_PX
from difftalker.face.crop import CELL, CropTrack, Framing, boxes_hull, frame_face
from difftalker.face.detect.people import Choice
from difftalker.face.detect.track import FaceTrack, track
from difftalker.face.draw import landmark_maps
from difftalker.face.landmarks import LOWER, UPPER
from difftalker.face.lips import correct_openings
from difftalker.face.spans import Span, find_spans, strengths
from difftalker.landmarks.edits import NO_CUTS, Edit, apply_edits
from difftalker.landmarks.silence_hold import OPENS_S, hold_silence
from difftalker.landmarks.track_file import LandmarkTrack, check_points
from difftalker.media.audio import SAMPLE_RATE_HZ, sound_duration_s, stream_audio
from difftalker.media.timeline import Fit, Timeline, fit, play
from difftalker.media.video import (
    Frame,
    VideoInfo,
    VideoWriter,
    probe_video,
    read_frames,
)
from difftalker.speech.encoder import SpeechEncoder, load_encoder
from difftalker.speech.silence import SILENT_MARGIN_S, silent_frames, sound_level_db
from difftalker.speech.windows import SpokenWindows, WindowStream
from difftalker.store import avatars as avatar_files
from difftalker.store.calibration import UNMEASURED, Calibration
from difftalker.store.journal import Journal, file_hash, key_of, pack, unpack
from difftalker.synthesis.autoencoder import finest, mask_out, to_images, to_pixels
from difftalker.synthesis.decoding import decode_part
from difftalker.synthesis.net import Guidance
from difftalker.synthesis.region import box_mask
from difftalker.synthesis.sampling import sample

HEAR_FRAMES = 128
"""Frames completed at once: few enough for little memory, many against their neighbours."""
Progress = Callable[[str, int, int], None]
"""Called with (stage, frames done, frames in all)."""


def _silent(stage: str, done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """Footage and where its face is."""

    video: Path
    info: VideoInfo
    track: FaceTrack
    framing: Framing

    def __len__(self) -> int:
        return len(self.track)

    def points_px(self, points_crop: NDArray[np.float32]) -> NDArray[np.float32]:
        """(frames, 68, 2) crop units -> pixels of the frame."""
        return self.framing.crop.to_px(points_crop)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """Which frames get a new mouth, and why the others do not."""
        return find_spans(self.track)

    @cached_property
    def strength(self) -> NDArray[np.float32]:
        """(frames,): how much of the new mouth each frame shows; 0 where it keeps its own."""
        return strengths(self.spans, self.track.times_s)

    def framed(self, config: ModelConfig) -> Located:
        """The same with crop and mask boxes as an avatar's networks want them."""
        return replace(self, framing=frame_face(self.track, config.size_px, config.mask))

    def shown(self, timeline: Timeline, config: ModelConfig) -> Located:
        """The same for the frames of a timeline, crop and mask steadied over those."""
        return self if timeline.is_footage else self.played(timeline).framed(config)

    def played(self, timeline: Timeline) -> Located:
        """The same for the frames of a timeline: each is framed as in the footage."""
        if timeline.is_footage:
            return self
        source, framing = timeline.source, self.framing
        track = replace(
            self.track,
            times_s=timeline.times_s,
            points_px=self.track.points_px[source],
            cuts=timeline.cuts(self.track.cuts),
            why=self.track.why[source],
        )
        crop = CropTrack(
            centre_px=framing.crop.centre_px[source], side_px=framing.crop.side_px[source]
        )
        framing = Framing(
            crop=crop,
            points_crop=framing.points_crop[source],
            found=framing.found[source],
            boxes=framing.boxes[source],
        )
        return replace(self, track=track, framing=framing)


@dataclass(frozen=True, kw_only=True)
class DubResult:
    """What a dubbing was."""

    output: Path
    frames: int
    """Written; as many as the footage has, unless they were fitted to the sound."""
    frames_driven: int
    """Number of written frames that show a new mouth."""
    located: Located
    landmarks_crop: NDArray[np.float32]
    """(frames, 68, 2): the completed points, crop units."""
    seconds: float
    """From footage to finished file, loading of the avatar apart."""

    @property
    def frames_per_second(self) -> float:
        """Speed of the whole dubbing, sound and picture encoded."""
        return self.frames / self.seconds

    @property
    def spans(self) -> tuple[Span, ...]:
        """Which frames got a new mouth, and why the others did not."""
        return self.located.spans


def locate(
    video: Path,
    size_px: int,
    progress: Progress = _silent,
    face: Choice | None = None,
    *,
    mask: str = "jaw",
) -> Located:
    """Find and follow the chosen face; one pass over the footage that keeps points alone.

    ``size_px`` and ``mask`` are those of the avatar (:class:`difftalker.config.ModelConfig`).

    Raises:
        MediaError: the footage cannot be read.
        FaceError: it shows no face, or none of whom ``face`` means.
    """
    info = probe_video(video)
    total = info.frames_estimate or 0

    def counted() -> Iterator[Frame]:
        for done, frame in enumerate(read_frames(video), 1):
            yield frame
            progress("locate", done, max(total, done))

    found = track(counted(), source=video, face=face)
    framing = frame_face(found, size_px, mask)
    return Located(video=video, info=info, track=found, framing=framing)


def check_pair(track: LandmarkTrack, video: Path) -> VideoInfo:
    """What the footage of a track is.

    Raises:
        TrackError: the track belongs to other footage.
        MediaError: the footage cannot be read.
    """
    info = probe_video(video)
    if (info.width, info.height) != track.frame_px or sha256_of(video) != track.video_sha256:
        raise TrackError(
            f"the landmarks belong to other footage than {video}",
            wanted=f"the very file {track.video} that they were made of",
            fix="choose that file, or make the landmarks anew with `difftalker landmarks`",
        )
    return info


def located_by(landmarks: LandmarkTrack, video: Path, size_px: int) -> Located:
    """Footage and where its face is, as its track of landmarks says: nothing is searched for.

    Raises:
        TrackError: the track belongs to other footage, or to an avatar of another size.
    """
    if landmarks.size_px != size_px:
        raise TrackError(
            f"the landmarks are for an avatar of {landmarks.size_px} pixels",
            wanted=f"{size_px} pixels",
            fix="make them anew with `difftalker landmarks` and this avatar",
        )
    points_px = np.where(landmarks.found[:, None, None], landmarks.points_px, np.nan)
    return Located(
        video=video,
        info=check_pair(landmarks, video),
        track=FaceTrack(
            times_s=landmarks.times_s,
            points_px=points_px.astype(np.float32),
            cuts=np.flatnonzero(landmarks.cut),
        ),
        framing=Framing(
            crop=landmarks.crop,
            points_crop=landmarks.points_crop,
            found=landmarks.found,
            boxes=landmarks.boxes,
        ),
    )


def hear(
    audio: Path, times_s: NDArray[np.float64], encoder: SpeechEncoder, window: int
) -> WindowStream:
    """The speech around each frame; where the sound ends before the picture there is silence."""
    end = int((float(times_s[-1]) + 1.0) * SAMPLE_RATE_HZ)
    return WindowStream(encoder.encode(_padded(stream_audio(audio), end, audio)), window)


def _padded(
    blocks: Iterable[NDArray[np.float32]], samples: int, source: Path
) -> Iterator[NDArray[np.float32]]:
    """Blocks that add up to ``samples``: cut, or followed by silence."""
    left, heard = samples, 0
    for block in blocks:
        heard += len(block)
        if left <= 0:
            break
        yield block[:left]
        left -= len(block)
    if not heard:
        raise MediaError(
            f"the sound of {source} is of zero length",
            wanted="some speech",
            fix="choose another file",
        )
    while left > 0:
        yield np.zeros(min(left, 10 * SAMPLE_RATE_HZ), np.float32)
        left -= 10 * SAMPLE_RATE_HZ


class Avatar:
    """One person, ready to speak."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        networks: Networks,
        device: str = "cpu",
        facts: Mapping[str, Any] | None = None,
        calibration: Calibration = UNMEASURED,
    ) -> None:
        self.name, self.config, self.device = name, config, device
        self.calibration = calibration
        self.facts = facts or {}
        self.networks = networks.to(device)
        if has_fast_bfloat16(device):
            self.networks.rounded()
        self._encoder: SpeechEncoder | None = None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that makes its pictures: weights, settings, and way to compute."""
        weights = (
            (part, name, tensor.detach().float().cpu().numpy())
            for part, tensors in sorted(self.networks.state().items())
            for name, tensor in sorted(tensors.items())
        )
        # Another number of threads adds up in another order, and rounds to other bits.
        ways = (torch.__version__, self.device, torch.get_num_threads(), CHUNK_FRAMES, HEAR_FRAMES)
        settings = {k: v for k, v in asdict(self.config).items() if k != "sampling"}
        settings["calibration"] = asdict(self.calibration)
        return key_of(__version__, *ways, settings, *itertools.chain.from_iterable(weights))

    def complete(
        self, located: Located, audio: Path, progress: Progress = _silent
    ) -> NDArray[np.float32]:
        """The points (frames, 68, 2), crop units: upper ones as found, lower ones from the speech.

        Raises:
            MediaError: the sound cannot be read, or has no length.
        """
        upper, track = located.framing.points_crop[:, list(UPPER)], located.track
        return self.speak(
            upper, track.times_s, audio, progress, found=track.usable, cuts=track.cuts
        )

    def speak(
        self,
        upper_crop: NDArray[np.float32],
        times_s: NDArray[np.float64],
        audio: Path,
        progress: Progress = _silent,
        *,
        found: NDArray[np.bool_] | None = None,
        cuts: NDArray[np.int64] = NO_CUTS,
    ) -> NDArray[np.float32]:
        """The points (frames, 68, 2) for upper ones (frames, 37, 2), crop units, at these times.

        ``found`` (frames,) tells where there is a face, by default everywhere; at ``cuts`` a shot
        begins.

        Raises:
            MediaError: the sound cannot be read, or has no length.
        """
        pieces = []
        for piece in self._completed(upper_crop, times_s, self._heard(audio, times_s)):
            pieces.append(piece)
            progress("complete", sum(map(len, pieces)), len(times_s))
        points = np.concatenate(pieces)
        if not self.config.completion.rests:
            return points
        seen = np.ones(len(times_s), bool) if found is None else found
        return hold_silence(points, times_s, seen, self._silent(audio, times_s), cuts)

    def move(self, frames: int, fps: float, seed: int = 0) -> NDArray[np.float32]:
        """Upper points (frames, 37, 2), crop units, of a head that sways and blinks as in life.

        Raises:
            AvatarError: the avatar's model of movement is damaged.
        """
        return self.networks.motion.sample(frames, fps, seed)

    def landmarks(
        self,
        video: str | Path,
        audio: str | Path,
        *,
        face: str | int | Path = "largest",
        progress: Progress = _silent,
    ) -> LandmarkTrack:
        """The completed landmarks of ``video`` with the sound of ``audio``: what ``dub`` paints.

        Raises:
            MediaError: footage or sound cannot be read.
            FaceError: the footage shows no face, or none of whom ``face`` means.
        """
        located = locate(
            Path(video), self.config.size_px, progress, Choice.parse(face), mask=self.config.mask
        )
        return self.as_track(located, self.complete(located, Path(audio), progress))

    def as_track(self, located: Located, points_crop: NDArray[np.float32]) -> LandmarkTrack:
        """Completed points (frames, 68, 2) of located footage, as a track to save or to edit."""
        framing, info = located.framing, located.info
        return LandmarkTrack(
            times_s=located.track.times_s,
            points_crop=points_crop,
            found=located.track.usable,
            cut=np.isin(np.arange(len(located)), located.track.cuts),
            centre_px=framing.crop.centre_px,
            side_px=framing.crop.side_px,
            boxes=framing.boxes,
            size_px=self.config.size_px,
            frame_px=(info.width, info.height),
            video=located.video.name,
            video_sha256=sha256_of(located.video),
            avatar=self.name,
        )

    def dub(
        self,
        video: str | Path,
        audio: str | Path,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        face: str | int | Path = "largest",
        located: Located | None = None,
        landmarks: NDArray[np.float32] | LandmarkTrack | None = None,
        edits: Sequence[Edit] = (),
    ) -> Dub:
        """Prepare a dubbing of ``video`` with the sound of ``audio``; ``save`` carries it out.

        ``face`` says whom, where there are several people: ``largest``, ``leftmost``,
        ``rightmost``, ``center``, a number (``face.people.Choice.number``), or a picture's file.
        ``located`` and ``landmarks`` (frames, 68, 2; crop units) are used where given; a track of
        landmarks says where the face is, too. They are of the footage's frames, and go with these
        where the footage is fitted to the sound. Crop and mask of ``located`` become the avatar's.
        ``edits`` change the landmarks, given or completed, one after the other, at times of the
        output.

        Raises:
            UsageError: there is no such sampler or face, the number of steps is not positive, or
                landmarks are given to an avatar that paints without any.
            TrackError: the track belongs to other footage, or to an avatar of another size.
        """
        whom = Choice.parse(face)
        chosen = self.sampling(sampler=sampler, steps=steps)
        located = located.framed(self.config) if located else None
        if (landmarks is not None or edits) and not self.config.synthesis.uses_landmarks:
            raise UsageError(
                f"landmarks for the avatar {self.name}, which paints from speech alone",
                wanted="an avatar whose guidance is landmarks",
            )
        if isinstance(landmarks, LandmarkTrack):
            located = located_by(landmarks, Path(video), self.config.size_px)
            landmarks = landmarks.points_crop
        return Dub(self, Path(video), Path(audio), chosen, seed, whom, located, landmarks, edits)

    def talk(
        self,
        audio: str | Path,
        *,
        fps: float = DEFAULT_FPS,
        sampler: str | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Talk:
        """Prepare a video without footage, of the whole face; ``save`` makes it.

        Raises:
            UsageError: there is no such sampler, the number of steps or of frames a second is out
                of range, or the avatar paints without landmarks.
        """
        chosen = self.sampling(sampler=sampler, steps=steps)
        return Talk(self, Path(audio), chosen, seed, fps)

    def sampling(self, *, sampler: str | None = None, steps: int | None = None) -> SamplingConfig:
        """The avatar's way of sampling, with what is given in its place.

        Raises:
            UsageError: there is no such sampler, or the number of steps is not positive.
        """
        own = self.config.sampling
        return SamplingConfig(
            sampler=own.sampler if sampler is None else sampler,
            steps=own.steps if steps is None else steps,
        )

    def windows(self, audio: Path, times_s: NDArray[np.float64]) -> SpokenWindows | None:
        """The speech around frames at these times; none where it does not guide the painting.

        Where landmarks rest, in silence, nothing is heard, but where lips may open or close.
        """
        if not self.config.synthesis.uses_audio:
            return None
        silent = np.zeros(len(times_s), bool)
        if self.config.synthesis.uses_landmarks and self.config.completion.rests:
            silent = self._silent(audio, times_s, SILENT_MARGIN_S + OPENS_S)
        return SpokenWindows(self._heard(audio, times_s), silent)

    def _silent(
        self, audio: Path, times_s: NDArray[np.float64], margin_s: float = SILENT_MARGIN_S
    ) -> NDArray[np.bool_]:
        level_db = sound_level_db(stream_audio(audio), times_s, rate_hz=SAMPLE_RATE_HZ)
        return silent_frames(level_db, times_s, margin_s)

    def _heard(self, audio: Path, times_s: NDArray[np.float64]) -> WindowStream:
        config = self.config.completion
        return hear(audio, times_s, self._speech_encoder(config), config.window)

    def paint(
        self,
        crops: NDArray[np.uint8],
        boxes: NDArray[np.int32],
        points_crop: NDArray[np.float32],
        sampling: SamplingConfig,
        seed: int = 0,
        *,
        windows: NDArray[np.float32] | None = None,
    ) -> NDArray[np.uint8]:
        """New lower faces; crops (n, S, S, 3), boxes (n, 4), points (n, 68, 2) -> (n, S, S, 3).

        Points are in crop units; ``windows`` (n, W, features) are the speech around the frames, of
        which an avatar makes use that hears. What the crops show within their boxes never reaches
        the networks. All frames start from one noise, so that neighbours differ by their guidance
        alone. They are of one shot; far from all boxes the result is the crops.

        Raises:
            UsageError: speech alone guides it, and there are no windows.
        """
        if windows is None and not self.config.synthesis.uses_landmarks:
            raise UsageError(
                f"no speech for the avatar {self.name}, which paints from speech alone",
                wanted="windows of speech features",
            )
        return self._made(crops, boxes, points_crop, sampling, seed, windows)

    def _made(
        self,
        crops: NDArray[np.uint8],
        boxes: NDArray[np.int32],
        points_crop: NDArray[np.float32],
        sampling: SamplingConfig,
        seed: int,
        windows: NDArray[np.float32] | None = None,
    ) -> NDArray[np.uint8]:
        with torch.inference_mode(), autocast(self.device):
            pixels = to_pixels(torch.from_numpy(crops).to(self.device))
            places = torch.from_numpy(boxes).to(self.device)
            hidden = mask_out(pixels, box_mask(places, pixels.shape[-1]))
            known = self.networks.autoencoder.encode(hidden)
            mask = box_mask(places, known.shape[-1], 8)
            guidance = self._guidance(known, points_crop, windows)
            latents = self._sampled(known, mask, guidance, sampling, seed)
            return self._decoded(latents, boxes, crops)

    def _decoded(
        self, latents: Tensor, boxes: NDArray[np.int32], crops: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Pictures (n, S, S, 3) that are painted about the boxes, at least."""
        around = boxes_hull(boxes, self.config.size_px, RING_PX + CELL)
        cells = [slice(s.start // CELL, s.stop // CELL) for s in around]
        part = decode_part(self.networks.autoencoder, latents, *cells)
        if part is None:
            return self._shown(self.networks.autoencoder.decode(latents))
        out = crops.copy()
        out[:, around[0], around[1]] = self._shown(part)
        return out

    def _shown(self, pixels: Tensor) -> NDArray[np.uint8]:
        """Decoded pictures (n, 3, H, W) as sharp as the footage, (n, H, W, 3)."""
        detail = self.calibration.detail
        if detail:
            pixels = pixels.float()
            pixels = pixels + detail * finest(pixels)
        return to_images(pixels).cpu().numpy()

    def imagine(
        self, points_crop: NDArray[np.float32], sampling: SamplingConfig, seed: int = 0
    ) -> NDArray[np.uint8]:
        """A whole face, in the light of the training footage; (68, 2) crop units -> (S, S, 3).

        Of the points the upper ones are used; the lower face is the mean one.
        """
        points, size = points_crop.copy(), self.config.size_px
        neutral = self.networks.completion.neutral_face(torch.from_numpy(points[None, list(UPPER)]))
        points[list(LOWER)] = neutral[0].cpu().numpy()
        nothing, everywhere = np.zeros((1, size, size, 3), np.uint8), np.array([[0, size, 0, size]])
        made = self._made(nothing, everywhere.astype(np.int32), points[None], sampling, seed)
        return np.asarray(made[0])

    def _guidance(
        self,
        known: Tensor,
        points_crop: NDArray[np.float32],
        windows: NDArray[np.float32] | None,
    ) -> Guidance:
        net, maps, heard = self.networks.synthesis, None, None
        if net.config.uses_landmarks:
            if added := self.calibration.openings:
                points_crop = correct_openings(points_crop, added)
            drawn = landmark_maps(points_crop, self.config.size_px)
            maps = self._drawn(torch.from_numpy(drawn).to(self.device))
        if net.config.uses_audio and windows is not None:
            heard = torch.from_numpy(windows).to(self.device)
        return net.guide(known, maps=maps, windows=heard)

    def _sampled(
        self,
        known: Tensor,
        mask: Tensor,
        guidance: Guidance,
        sampling: SamplingConfig,
        seed: int,
    ) -> Tensor:
        net, prior = self.networks.synthesis, self.config.prior
        # Drawn on the CPU, so that a seed means the same on every device.
        noise = torch.randn(known.shape[1:], generator=torch.Generator().manual_seed(seed))
        return sample(
            lambda z, t: net(z, t, guidance),
            known,
            mask,
            noise.to(known).expand_as(known),
            sampler=sampling.sampler,
            steps=sampling.steps,
            prediction=prior.prediction,
            timesteps=prior.timesteps,
            seed=seed,
        )

    def _drawn(self, maps: Tensor) -> Tensor:
        """Maps (n, K, S, S) uint8 in 0..1, of the type that the networks compute in."""
        dtype = torch.bfloat16 if has_fast_bfloat16(maps.device) else torch.float32
        return maps.to(dtype, memory_format=torch.channels_last) / 255

    def _completed(
        self,
        upper_crop: NDArray[np.float32],
        times: NDArray[np.float64],
        windows: WindowStream,
    ) -> Iterator[NDArray[np.float32]]:
        """Chunks of completed points, each seen with as many neighbours as the network reaches."""
        net, upper = self.networks.completion, torch.from_numpy(upper_crop)
        held, first = windows.take(times[:0]), 0
        for start in range(0, len(times), HEAR_FRAMES):
            stop = min(start + HEAR_FRAMES, len(times))
            low, high = max(0, start - net.reach), min(len(times), stop + net.reach)
            heard = first + len(held)
            held = np.concatenate([held[low - first :], windows.take(times[heard:high])])
            first = low
            with torch.inference_mode():
                out = net(
                    upper[None, low:high].to(self.device),
                    torch.from_numpy(held[None]).to(self.device),
                )
            yield out.points[0, start - low : stop - low].float().cpu().numpy()

    def _speech_encoder(self, config: CompletionConfig) -> SpeechEncoder:
        if self._encoder is None:
            encoder = load_encoder(config.features, device=self.device)
            if encoder.dim != config.feature_dim:
                raise AvatarError(
                    f"the avatar {self.name} hears features of {config.feature_dim} numbers",
                    wanted=f"{encoder.dim}, as {config.features} has",
                )
            self._encoder = encoder
        return self._encoder


class Dub:
    """A dubbing to be carried out."""

    def __init__(
        self,
        avatar: Avatar,
        video: Path,
        audio: Path,
        sampling: SamplingConfig,
        seed: int,
        face: Choice,
        located: Located | None,
        landmarks: NDArray[np.float32] | None,
        edits: Sequence[Edit],
    ) -> None:
        self.avatar, self.video, self.audio = avatar, video, audio
        self.sampling, self.seed, self.face = sampling, seed, face
        self._located, self._landmarks, self._edits = located, landmarks, edits

    def save(
        self,
        output: str | Path,
        *,
        crf: int = DEFAULT_CRF,
        lossless: bool = False,
        fit: Fit = "trim",
        keep_audio: bool = False,
        keep_journal: bool = False,
        progress: Progress = _silent,
    ) -> DubResult:
        """Write the dubbed video: the footage's frames and times, the new sound.

        ``fit`` says what happens where sound and picture differ in length (``media.timeline.Fit``).
        ``keep_audio`` leaves the footage its own sound: the new one only moves the mouth.

        Finished work is kept in a hidden folder beside the output (``store.journal``). After
        a failure or a kill the same call goes on from there, to the same bytes; after success the
        folder goes, unless ``keep_journal`` leaves it for a call with other landmarks.

        Raises:
            MediaError: input or output cannot be read or written, or another run writes the
                output; an earlier output stays as it was.
            FaceError: the footage shows no face, or none of whom ``face`` meant.
            TrackError: an edit drives points out of all bounds.
        """
        began, output = time.monotonic(), Path(output)
        journal = Journal(output, keep=keep_journal)
        info = probe_video(self.video)
        info.warn()
        writer = VideoWriter(
            output,
            width=info.width,
            height=info.height,
            fps=info.fps,
            time_base=info.time_base,
            audio=self.video if keep_audio else self.audio,
            crf=crf,
            lossless=lossless,
            comment=generated_by(self.avatar.name),
            sample_aspect_ratio=info.sample_aspect_ratio,
            colour=info.colour,
            scratch_folder=journal.folder,
        )
        next(stream_audio(self.audio))  # unusable sound is told before the work, not after
        with journal:
            footage = self._locate(journal, progress)
            give_back()
            timeline = self._timeline(footage, fit)
            if self._landmarks is None:
                located = footage.shown(timeline, self.avatar.config)
                points = self._points(located, journal, progress)
            else:  # they lie within the crops of the footage as it is
                located = footage.played(timeline)
                points = _given(self._landmarks, len(footage))[timeline.source]
            points = self._edited(located, points)
            give_back()
            with writer:
                scene = self._scene(located, points)
                painter = Painter(self.avatar, self.sampling, self.seed, scene, journal)
                with closing(painter.frames(play(self.video, timeline))) as painted:
                    for done, (frame, image) in enumerate(painted, 1):
                        writer.write(image, frame.pts)
                        progress("paint", done, len(located))
        return DubResult(
            output=output,
            frames=len(located),
            landmarks_crop=points,
            located=located,
            frames_driven=int((located.strength > 0).sum()),
            seconds=time.monotonic() - began,
        )

    def _locate(self, journal: Journal, progress: Progress) -> Located:
        """The footage's face, as given, as kept, or found now."""
        if self._located is not None:
            return self._located
        config, photo = self.avatar.config, self.face.picture
        whom = repr(self.face) if photo is None else file_hash(photo)
        key = key_of(__version__, file_hash(self.video), whom)
        if kept := journal.get("track", key):
            face = FaceTrack.from_arrays(unpack(kept))
            framing = frame_face(face, config.size_px, config.mask)
            info = probe_video(self.video)
            return Located(video=self.video, info=info, track=face, framing=framing)
        located = locate(self.video, config.size_px, progress, self.face, mask=config.mask)
        journal.put("track", key, pack(vars(located.track)))
        return located

    def _timeline(self, footage: Located, mode: Fit) -> Timeline:
        sound_s = 0.0 if mode == "trim" else sound_duration_s(self.audio)
        return fit(footage.track.times_s, footage.info, mode, sound_s)

    def _points(
        self, located: Located, journal: Journal, progress: Progress
    ) -> NDArray[np.float32]:
        """The completed points, as kept, or completed now."""
        seen = located.track.times_s, located.framing.points_crop
        key = key_of(self.avatar.fingerprint, file_hash(self.audio), *seen)
        if kept := journal.get("landmarks", key):
            return unpack(kept)["points_crop"].astype(np.float32)
        points = self.avatar.complete(located, self.audio, progress)
        journal.put("landmarks", key, pack({"points_crop": points}))
        return points

    def _edited(self, located: Located, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """The points with the edits, by the times of the output."""
        track = located.track
        points = apply_edits(points, track.times_s, track.usable, self._edits, track.cuts)
        check_points(points)
        return points

    def _scene(self, located: Located, points: NDArray[np.float32]) -> Scene:
        return Scene(
            track=located.track,
            framing=located.framing,
            points_crop=points,
            strength=located.strength,
            windows=self.avatar.windows(self.audio, located.track.times_s),
        )


def _given(points_crop: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Landmarks that somebody else made for as many frames of footage."""
    if points_crop.shape != (frames, 68, 2):
        raise UsageError(f"landmarks of shape {points_crop.shape}", wanted=f"{(frames, 68, 2)}")
    return points_crop.astype(np.float32)


def load(name_or_folder: str | Path, *, device: str = "cpu") -> Avatar:
    """An avatar by its packaged name or its folder, ready to speak.

    Raises:
        AvatarError: the folder or a file is missing, truncated or altered.
    """
    files = avatar_files.read(name_or_folder)
    networks = restore(files)
    return Avatar(
        files.name, files.config, networks, device, files.facts, calibration=files.calibration
    )


def generated_by(name: str) -> str:
    """What the file's comment says of its making."""
    return f"AI-generated: the mouth in this video was made by DiffTalker, avatar {name}."
