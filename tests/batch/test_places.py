"""Batches from and to a store: fsspec's own in memory, and S3's protocol over a local server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from difftalker.batch.options import BatchOptions
from difftalker.batch.places import Folder, PlaceError
from difftalker.batch.run import run_batch
from difftalker.errors import UsageError

Talk = Callable[..., dict[str, Any]]
Jobs = Callable[..., Path]


@pytest.fixture
def memory() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a server of this machine."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    _, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    fs.mkdir("difftalker-test")
    yield "s3://difftalker-test"
    fsspec.filesystem("s3").clear_instance_cache()
    running.stop()


@pytest.mark.parametrize("store", ["memory", "bucket"])
def test_a_batch_reads_from_a_store_and_writes_to_it(
    store: str,
    request: pytest.FixtureRequest,
    talk: Talk,
    jobs: Jobs,
    tmp_path: Path,
    folder: Path,
) -> None:
    there: str = request.getfixturevalue(store)
    fs, root = fsspec.core.url_to_fs(there)
    fs.put(str(folder / "avatar"), f"{root}/avatar", recursive=True)
    fs.put_file(str(folder / "speech.wav"), f"{root}/speech.wav")
    line = talk(avatar=f"{there}/avatar", audio=f"{there}/speech.wav")
    fs.pipe_file(f"{root}/jobs.jsonl", json.dumps(line).encode())
    out = f"{there}/out"
    assert run_batch(f"{there}/jobs.jsonl", out).done == 1
    [result] = [json.loads(one) for one in Folder(out).read("results.jsonl").splitlines()]
    name = result["outputs"]["output"]
    assert Folder(out).names() == {name, "results.jsonl"}
    run_batch(jobs(talk()), tmp_path / "here")
    [here] = (tmp_path / "here").glob("*.mp4")
    assert Folder(out).read(name) == here.read_bytes()
    assert run_batch(f"{there}/jobs.jsonl", out).done_before == 1


def test_shards_elsewhere_have_results_of_their_own(memory: str, talk: Talk, jobs: Jobs) -> None:
    path = jobs(talk(1), talk(2))
    for part in range(2):
        assert run_batch(path, memory, BatchOptions(shard=(part, 2))).done == 1
    names = Folder(memory).names()
    assert {"results-0-of-2.jsonl", "results-1-of-2.jsonl"} <= names
    assert len(names) == 4


def test_what_cannot_be_reached_is_one_line(memory: str, talk: Talk, jobs: Jobs) -> None:
    summary = run_batch(jobs(talk(audio=f"{memory}/none.wav")), memory)
    assert "none.wav cannot be read" in summary.failed[0]["error"]["message"]
    with pytest.raises(UsageError, match="nowhere://x cannot be opened"):
        Folder("nowhere://x")
    with pytest.raises(PlaceError, match="cannot be made"):
        Folder(__file__)
