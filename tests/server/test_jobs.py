"""Jobs over REST: what is taken and refused, idempotency, fairness, cancelling, files."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.conftest import DUB, Serve, fault, parts


def test_a_job_is_queued_and_found_again(client: TestClient) -> None:
    made = client.post("/v1/jobs", json={**DUB, "label": "first"})
    assert made.status_code == 202
    job = made.json()
    assert made.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] == "queued"
    assert job["request"]["label"] == "first"
    assert client.get(f"/v1/jobs/{job['id']}").json() == job
    second = client.post("/v1/jobs", json=DUB).json()
    listed = client.get("/v1/jobs").json()
    assert [one["id"] for one in listed] == [second["id"], job["id"]]
    older = client.get("/v1/jobs", params={"before": second["number"], "limit": 1}).json()
    assert [one["id"] for one in older] == [job["id"]]


@pytest.mark.parametrize(
    ("changes", "status", "found"),
    [
        ({"avatar": "nobody"}, 404, "no avatar is called 'nobody'"),
        ({"video": "nothing"}, 404, "no upload is called 'nothing'"),
        ({"video": "../../etc/passwd"}, 422, "video"),
        ({"face": "/etc/passwd"}, 422, "face"),
        ({"face": "upload:nothing"}, 404, "no upload is called 'nothing'"),
        ({"landmarks": "nothing"}, 404, "no upload is called 'nothing'"),
        ({"base": "nothing"}, 404, "no job is called 'nothing'"),
        ({"opening": [0.1]}, 422, "opening without landmarks"),
        ({"edits": ["mouth=a"]}, 422, "edits"),
        ({"steps": 0}, 422, "steps"),
        ({"steps": 2, "renderer": "light"}, 422, "one pass"),
        ({"output": "/tmp/x"}, 422, "output"),
        ({"kind": "dig"}, 422, "kind"),
        ({"webhook": "file:///etc/passwd"}, 422, "webhook"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_queue(
    client: TestClient, changes: dict[str, Any], status: int, found: str
) -> None:
    error = fault(client.post("/v1/jobs", json={**DUB, **changes}), status)
    assert found in error["found"]
    assert client.get("/v1/jobs").json() == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"consent": " "}, "consent"),
        ({"settings": {"model.base_model": "/etc"}}, "model.base_model"),
        ({"settings": {"training.nothing": "1"}}, "training.nothing"),
        ({"start": "../me"}, "start"),
        ({"footage": []}, "footage"),
    ],
)
def test_training_wants_consent_and_reads_no_file_of_the_server(
    client: TestClient, changes: dict[str, Any], found: str
) -> None:
    good = {"footage": ["sample-footage"], "consent": "nobody: the footage is synthetic"}
    assert found in fault(client.post("/v1/avatars", json={**good, **changes}), 422)["found"]
    made = client.post("/v1/avatars", json=good)
    assert made.status_code == 202
    assert made.json()["kind"] == "train"


def test_a_key_makes_one_job(client: TestClient) -> None:
    key = {"Idempotency-Key": "once"}
    first = client.post("/v1/jobs", json=DUB, headers=key)
    again = client.post("/v1/jobs", json=DUB, headers=key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json() == again.json()
    other = client.post("/v1/jobs", json={**DUB, "seed": 1}, headers=key)
    assert "Idempotency-Key" in fault(other, 409)["found"]
    assert len(client.get("/v1/jobs").json()) == 1


def test_the_queue_of_a_user_has_an_end(serve: Serve) -> None:
    client = serve(queued=2)
    for _ in range(2):
        assert client.post("/v1/jobs", json=DUB).status_code == 202
    error = fault(client.post("/v1/jobs", json=DUB), 429)
    assert error["fix"] == "wait for one of them, or cancel it"


def test_users_take_turns_and_see_their_own_alone(serve: Serve) -> None:
    client = serve()
    store = parts(client).store
    users = {name: {"Authorization": f"Bearer {store.new_token(name)}"} for name in ("a", "b")}
    for label in ("a1", "a2", "a3"):
        client.post("/v1/jobs", json={**DUB, "label": label}, headers=users["a"])
    made = client.post("/v1/jobs", json={**DUB, "label": "b1"}, headers=users["b"]).json()
    order = [store.next_job() for _ in range(4)]
    assert [job and job.request["label"] for job in order] == ["a1", "b1", "a2", "a3"]
    assert store.next_job() is None
    fault(client.get(f"/v1/jobs/{made['id']}", headers=users["a"]), 404)
    fault(client.delete(f"/v1/jobs/{made['id']}", headers=users["a"]), 404)
    assert len(client.get("/v1/jobs", headers=users["b"]).json()) == 1


def test_what_ran_when_a_server_was_killed_comes_first(client: TestClient) -> None:
    store = parts(client).store
    first, second = (client.post("/v1/jobs", json=DUB).json()["id"] for _ in range(2))
    job = store.next_job()
    assert job is not None
    assert job.id == first
    assert [one.id for one in store.requeue()] == [first]
    assert client.get(f"/v1/jobs/{first}").json()["state"] == "queued"
    assert [store.next_job(), store.next_job()] == [
        store.found_job(first),
        store.found_job(second),
    ]


def test_a_cancelled_job_leaves_nothing_and_a_second_delete_forgets_it(client: TestClient) -> None:
    server = parts(client)
    job = client.post("/v1/jobs", json=DUB).json()["id"]
    server.places.job(job).mkdir()
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    assert client.get(f"/v1/jobs/{job}").json()["state"] == "cancelled"
    assert not server.places.job(job).exists()
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    fault(client.get(f"/v1/jobs/{job}"), 404)


def finished(client: TestClient, files: dict[str, bytes]) -> str:
    """A dub that has succeeded, with these files."""
    server = parts(client)
    job: str = client.post("/v1/jobs", json={**DUB, "keep_work": True}).json()["id"]
    server.places.job(job).mkdir()
    for name, content in files.items():
        (server.places.job(job) / name).write_bytes(content)
    assert server.store.end_job(job, "succeeded", result={"frames": 1})
    return job


def test_files_of_a_job_come_by_name_and_in_ranges(client: TestClient) -> None:
    job = finished(client, {"video.mp4": b"0123456789", ".lock": b"", "drawn.npz": b""})
    assert client.get(f"/v1/jobs/{job}").json()["files"] == ["video.mp4"]
    whole = client.get(f"/v1/jobs/{job}/result")
    assert (whole.content, whole.headers["content-type"]) == (b"0123456789", "video/mp4")
    part = client.get(f"/v1/jobs/{job}/files/video.mp4", headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    assert client.get(f"/v1/jobs/{job}/result", headers={"Range": "bytes=50-"}).status_code == 416
    for name in ("drawn.npz", ".lock", "../../state.sqlite3", "%2e%2e/%2e%2e/state.sqlite3", "/"):
        assert client.get(f"/v1/jobs/{job}/files/{name}").status_code in (404, 422)


def test_a_result_is_there_once_the_job_has_succeeded(client: TestClient) -> None:
    job = client.post("/v1/jobs", json=DUB).json()["id"]
    assert fault(client.get(f"/v1/jobs/{job}/result"), 409)["found"] == "the job is queued"


def test_a_dub_goes_on_from_a_track_and_pictures_of_an_earlier_one(client: TestClient) -> None:
    queued = client.post("/v1/jobs", json=DUB).json()["id"]
    fault(client.post("/v1/jobs", json={**DUB, "landmarks": queued}), 409)
    fault(client.post("/v1/jobs", json={**DUB, "base": queued}), 409)
    done = finished(client, {"video.mp4": b"", "track.npz": b""})
    wanted = {**DUB, "landmarks": done, "base": done, "opening": [0.5, None]}
    made = client.post("/v1/jobs", json=wanted)
    assert made.status_code == 202
    server = parts(client)
    order = server.planner.order(server.store.found_job(made.json()["id"]))
    assert order["opening"] == [0.5, None]
    assert order["base"] == str(server.places.job(done))
    assert order["job"]["landmarks"] == str(server.places.job(done) / "track.npz")


def test_events_tell_the_end(client: TestClient) -> None:
    job = finished(client, {})
    with client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert lines[0] == "event: job"
    assert '"state": "succeeded"' in lines[1] or '"state":"succeeded"' in lines[1]


def test_an_unknown_path_is_refused_in_three_parts(client: TestClient) -> None:
    fault(client.get("/v1/nothing"), 404)
    fault(client.put("/v1/jobs"), 405)
