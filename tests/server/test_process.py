"""A real server with real workers: jobs to their files, live sessions, and kill -9."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from server_process import READY_S, Started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def offered(folder: Path) -> Path:
    from helpers_networks import write_untrained

    return write_untrained(folder / "nobody", ("light", "live"))


@pytest.fixture(scope="module")
def server(folder: Path, offered: Path) -> Iterator[Started]:
    started = Started(folder / "server", "--avatar", str(offered))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def footage(folder: Path) -> Path:
    """A few frames that show a face."""
    from difftalker.media.video import read_frames
    from difftalker.packaged import samples
    from helpers_cli import write_video

    images = [one.image for one in itertools.islice(read_frames(samples.footage()), 8)]
    return write_video(folder / "footage.mp4", images)


@pytest.fixture(scope="module")
def speech(folder: Path) -> Path:
    from media.made import tone, write_sound

    return write_sound(folder / "speech.wav", tone(16_000, 0.5), 16_000)


def test_words_that_were_sent_stand_on_the_timeline(
    server: Started, footage: Path, speech: Path, folder: Path
) -> None:
    (folder / "said.align").write_text("0 5000 sil\n5000 8000 bin\n", encoding="utf-8")
    (folder / "none.vtt").write_text("WEBVTT", encoding="utf-8")
    common: dict[str, Any] = {
        "avatar": "nobody",
        "video": server.send(footage),
        "audio": server.send(speech),
    }
    good, bad = (
        server.job(kind="landmarks", words=server.send(folder / name), **common)
        for name in ("said.align", "none.vtt")
    )
    assert server.end_of(good)["state"] == "succeeded"
    timeline = server.http.get(f"/v1/jobs/{good}/files/timeline.json").json()
    assert timeline["words"] == [{"text": "bin", "start_s": 0.2, "stop_s": 0.32}]
    failed = server.end_of(bad)
    assert failed["state"] == "failed"
    assert "none.vtt" in failed["error"]["found"]
    assert "WebVTT" in failed["error"]["wanted"]


def test_what_a_job_says_names_no_path_of_the_server(server: Started, speech: Path) -> None:
    sent = server.send(speech)
    for video, name in (("sample-speech", "speech.wav"), (sent, speech.name)):
        job = server.job(kind="landmarks", avatar="nobody", video=video, audio=sent)
        error = server.end_of(job)["error"]
        assert name in error["found"]
        assert "/" not in error["found"]
    job = server.job(kind="train", footage=[sent], consent="x", preset="debug", start="none")
    ended = server.end_of(job)
    assert "speech.wav" in ended["progress"]["text"]
    assert str(server.folder) not in json.dumps(ended)
    assert sent + "." not in ended["progress"]["text"]


def test_footage_becomes_landmarks_and_these_a_dub(
    server: Started, footage: Path, speech: Path
) -> None:
    common: dict[str, Any] = {
        "avatar": "nobody",
        "video": server.send(footage),
        "audio": server.send(speech),
    }
    first = server.job(kind="landmarks", **common)
    events = []
    with server.http.stream("GET", f"/v1/jobs/{first}/events") as lines:
        for line in lines.iter_lines():
            if line.startswith("data:"):
                events.append(json.loads(line[5:]))
    assert events[-1]["state"] == "succeeded", events[-1]["error"]
    assert {one["progress"]["stage"] for one in events if one["progress"]} >= {"locate"}
    assert set(events[-1]["files"]) == {"preview.mp4", "track.npz", "timeline.json"}
    timeline = server.http.get(f"/v1/jobs/{first}/files/timeline.json").json()
    assert len(timeline["opening"]) == len(timeline["times_s"]) == 8
    assert timeline["spans"][0]["reason"] == "face"

    wide = [0.3, *(None for _ in range(7))]
    common |= {"landmarks": first, "opening": wide, "renderer": "light", "aigc": True}
    dubbed = server.end_of(server.job(kind="dub", keep_work=True, **common))
    assert dubbed["state"] == "succeeded", dubbed["error"]
    assert dubbed["result"]["frames_driven"] == 8
    drawn = server.http.get(f"/v1/jobs/{dubbed['id']}/files/timeline.json").json()
    assert abs(drawn["opening"][0] - 0.3) < 0.02
    assert drawn["opening"][1:] == timeline["opening"][1:]
    head = server.http.get(f"/v1/jobs/{dubbed['id']}/result", headers={"Range": "bytes=4-7"})
    assert (head.status_code, head.content) == (206, b"ftyp")

    marks = server.http.post("/v1/verify", json={"file": dubbed["id"]}, timeout=60).json()
    assert (marks["verdict"], marks["aigc"]["Label"]) == ("intact", "1")

    again = server.end_of(server.job(kind="dub", base=dubbed["id"], **common))
    results = [server.http.get(f"/v1/jobs/{one['id']}/result").content for one in (dubbed, again)]
    assert results[0] == results[1]


def test_a_failure_says_what_was_found_wanted_and_to_be_done(
    server: Started, speech: Path, folder: Path
) -> None:
    (folder / "damaged.mp4").write_bytes(b"no video at all" * 100)
    damaged = server.send(folder / "damaged.mp4")
    job = server.job(kind="talk", avatar="nobody", audio=damaged)
    ended = server.end_of(job)
    assert ended["state"] == "failed"
    assert ended["error"]["found"]
    assert ended["error"]["kind"] == "MediaError"
    assert str(server.folder) not in json.dumps(ended["error"])


def test_a_running_job_is_cancelled(server: Started, speech: Path) -> None:
    audio = server.send(speech)
    job = server.job(kind="talk", avatar="nobody", audio=audio, fps=60, steps=1000)
    server.until(job, lambda seen: seen["state"] == "running")
    assert server.http.delete(f"/v1/jobs/{job}").status_code == 204
    assert server.see(job)["state"] == "cancelled"
    after = server.end_of(server.job(kind="talk", avatar="nobody", audio=audio, renderer="light"))
    assert after["state"] == "succeeded", after["error"]
    assert not (server.folder / "jobs" / job).exists()


def test_a_live_session_answers_and_is_interrupted(server: Started) -> None:
    asyncio.run(_converse(server))


async def _converse(server: Started) -> None:
    from websockets.asyncio.client import connect

    url = server.url.replace("http", "ws") + "/v1/live?avatar=nobody"
    async with connect(url, max_size=None) as socket:
        ready = json.loads(await asyncio.wait_for(socket.recv(), READY_S))
        assert ready["type"] == "ready", ready
        assert "AI-generated" in ready["notice"]
        await socket.send(b"\x10\x27" * 16_000)
        kinds, loud = set[int](), False
        while not (loud and len(kinds) == 2):
            message = await asyncio.wait_for(socket.recv(), READY_S)
            assert isinstance(message, bytes)
            kinds.add(message[0])
            loud = loud or (message[0] == 2 and any(message[9:]))
            assert message[0] == 2 or message[9:11] == b"\xff\xd8"
        await socket.send(json.dumps({"type": "interrupt"}))
        while isinstance(message := await asyncio.wait_for(socket.recv(), READY_S), bytes):
            pass
        assert json.loads(message)["type"] == "interrupted"
        await socket.send(json.dumps({"type": "end"}))
        while isinstance(message := await asyncio.wait_for(socket.recv(), READY_S), bytes):
            assert message[0] == 1 or not any(message[9:]), "silence after the interruption"
        assert json.loads(message)["stats"]["frames"] > 0


def test_the_same_session_goes_over_webrtc(server: Started) -> None:
    pytest.importorskip("aiortc", reason="the package aiortc is missing")
    asyncio.run(_call(server))


async def _call(server: Started) -> None:
    from aiortc import RTCPeerConnection, RTCSessionDescription
    from aiortc.mediastreams import AudioStreamTrack

    peer = RTCPeerConnection()
    tracks = asyncio.Queue[Any]()
    peer.on("track", tracks.put_nowait)
    peer.addTrack(AudioStreamTrack())
    peer.addTransceiver("video", direction="recvonly")
    peer.createDataChannel("control")
    await peer.setLocalDescription(await peer.createOffer())
    async with httpx2.AsyncClient(base_url=server.url, timeout=READY_S) as http:
        offer = {"sdp": peer.localDescription.sdp, "avatar": "nobody"}
        answer = await http.post("/v1/live/webrtc", json=offer)
    assert answer.status_code == 200, answer.text
    await peer.setRemoteDescription(RTCSessionDescription(answer.json()["sdp"], "answer"))
    seen = set[str]()
    while seen != {"audio", "video"}:
        track = await asyncio.wait_for(tracks.get(), READY_S)
        frame = await asyncio.wait_for(track.recv(), READY_S)
        if track.kind == "video":
            session = answer.json()["session"]
            assert (frame.width, frame.height) == (session["width"], session["height"])
        seen.add(track.kind)
    await peer.close()


def test_an_offer_that_is_none_is_refused(server: Started) -> None:
    pytest.importorskip("aiortc", reason="the package aiortc is missing")
    until = time.monotonic() + READY_S
    while True:
        answer = server.http.post("/v1/live/webrtc", json={"sdp": "none", "avatar": "nobody"})
        # The session of another test may not have ended yet.
        if answer.status_code != 429 or time.monotonic() > until:
            break
        time.sleep(0.2)
    assert answer.status_code == 422, answer.text


def test_a_server_that_is_killed_goes_on_to_the_same_bytes(
    folder: Path, offered: Path, speech: Path, server: Started
) -> None:
    request = {"kind": "talk", "avatar": "nobody", "fps": 50, "steps": 8}
    alone = server.end_of(server.job(**request, audio=server.send(speech)))
    wanted = server.http.get(f"/v1/jobs/{alone['id']}/result").content
    (folder / "other").mkdir()
    killed = Started(folder / "other" / "server", "--avatar", str(offered))
    audio = killed.send(speech)
    jobs = [killed.job(**request, audio=audio) for _ in range(3)]
    killed.until(jobs[0], lambda seen: (seen["progress"] or {}).get("stage") == "render")
    killed.kill()
    killed.start()
    killed.until(jobs[1], lambda seen: seen["state"] != "queued")
    killed.kill()
    killed.start()
    for job in jobs:
        ended = killed.end_of(job)
        assert ended["state"] == "succeeded", ended["error"]
        assert killed.http.get(f"/v1/jobs/{job}/result").content == wanted
    killed.stop()
