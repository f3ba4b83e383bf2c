"""Parts of a video that are painted apart join to the bytes of one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.render_loop import CHUNK_FRAMES
from difftalker.face.detect.track import FaceTrack
from difftalker.store.journal import Journal
from helpers_dub import FRAMES
from synthetic import located, still_track, without

CUT = 2 * CHUNK_FRAMES + 5


def cut_at(*frames: int) -> FaceTrack:
    return replace(still_track(FRAMES), cuts=np.array(frames, np.int64))


@pytest.mark.parametrize(
    "track",
    [
        cut_at(),
        cut_at(CUT),
        # The shot begins without the face: what is known of the light is that of the shot before.
        without(cut_at(CUT), [slice(CUT - 2, CUT + 8)]),
    ],
    ids=["one shot", "a cut", "a cut without a face"],
)
def test_painted_apart_is_the_same(
    track: FaceTrack, tmp_path: Path, clip: tuple[Path, Path], avatar: Avatar, rendered: list[int]
) -> None:
    dub = avatar.dub(*clip, located=located(clip[0], track))
    whole = dub.save(tmp_path / "whole.mp4").output
    alone, pieces, covered = sum(rendered), dict[str, bytes](), list[int]()
    rendered.clear()
    with Journal(tmp_path / "plan.mp4") as journal:
        parts = dub.opened(journal).loop.parts(CHUNK_FRAMES)
    for part in reversed(parts):
        with Journal(tmp_path / "part.mp4", keep=True) as journal:
            opened = dub.opened(journal)
            done = list(opened.loop.paint(opened.shown(), part))
            pieces |= journal.pieces()
        assert done[-1] == len(part)
        covered += part
    assert sorted(covered) == list(range(FRAMES))
    assert sum(rendered) == alone
    rendered.clear()
    joined = tmp_path / "joined.mp4"
    with Journal(joined, keep=True) as journal:
        journal.take(pieces)
    dub.save(joined)
    assert rendered == []
    assert joined.read_bytes() == whole.read_bytes()


def test_parts_end_at_cuts_or_where_chunks_do(
    tmp_path: Path, clip: tuple[Path, Path], avatar: Avatar
) -> None:
    dub = avatar.dub(*clip, located=located(clip[0], cut_at(3, CUT)))
    with Journal(tmp_path / "plan.mp4") as journal:
        loop = dub.opened(journal).loop
    starts = {0, 3, CUT, *range(3, CUT, CHUNK_FRAMES), *range(CUT, FRAMES, CHUNK_FRAMES)}
    for frames in (1, CHUNK_FRAMES, 40, FRAMES):
        parts = loop.parts(frames)
        assert [i for part in parts for i in part] == list(range(FRAMES))
        assert {part.start for part in parts} <= starts
        assert max(map(len, parts)) <= max(frames, CHUNK_FRAMES)
    assert len(loop.parts(FRAMES)) == 1
