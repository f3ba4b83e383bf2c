"""What all commands share: wrong use, failures, and one object on standard output."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from difftalker import doctor as machine
from helpers_cli import ODD_NAMES, Command, process


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dubb"], ["dubb", "dub", "--help"]),
        (["--colour"], ["--colour"]),
        (["dub", "v.mp4", "a.wav", "--avatar", "x", "--output", "o.mp4", "--sed", "1"],
         ["--sed", "--seed", "difftalker dub --help"]),
        (["dub", "v.mp4", "--avatar", "x", "--output", "o.mp4"], ["AUDIO"]),
        (["dub", "v.mp4", "a.wav", "b.wav", "--avatar", "x", "--output", "o.mp4"], ["b.wav"]),
        (["dub", "v.mp4", "a.wav", "--avatar", "x", "--output", "o.mp4", "--crf", "52"],
         ["52", "--crf"]),
        (["dub", "v.mp4", "a.wav", "--avatar", "x", "--output", "o.mp4", "--steps", "0"],
         ["0", "--steps"]),
        (["doctor", "--seed", "-1"], ["-1", "--seed"]),
        (["doctor", "--seed", "many"], ["many", "--seed"]),
        (["demo", "--device", "tpu"], ["tpu", "cpu", "cuda"]),
        (["prepare", "--output", "d"], ["no footage"]),
        (["prepare", "v.mp4", "--output", "d", "--features", "smell"], ["smell", "mel"]),
        (["prepare", "v.mp4", "--output", "d", "--face", "tall"], ["tall", "leftmost"]),
        (["train", "v.mp4", "--output", "a", "--consent", "c", "--face", "0"], ["0", "leftmost"]),
        (["evaluate", "a", "v.mp4", "--report", "r", "--face", "x.png"], ["x.png", "picture"]),
        (["train", "v.mp4", "--output", "a", "--consent", "c", "--preset", "huge"],
         ["huge", "tiny"]),
        (["train", "v.mp4", "--output", "a", "--consent", "c", "--completion", "x"],
         ["'x'", "paper"]),
        (["train", "v.mp4", "--output", "a", "--consent", "c", "--features", "x"],
         ["'x'", "characters"]),
        (["train", "v.mp4", "--output", "a", "--stage", "mouth"], ["mouth", "landmarks"]),
        (["train", "v.mp4", "--output", "a"], ["--consent"]),
        (["train", "v.mp4", "--output", "a", "--consent", "c", "--set", "seed"],
         ["seed", "KEY=VALUE"]),
        (["train", "v.mp4", "--output", "a", "--consent", "c", "--set", "training.speed=1"],
         ["training.speed", "autocast"]),
        (["train", "v.mp4", "--output", "a", "--consent", "c", "--set", "training.prior.steps=x"],
         ["training.prior.steps", "int"]),
        (["evaluate", "a", "--report", "r"], ["no footage"]),
    ],
    ids=lambda value: " ".join(value[:1] + value[-2:]) if len(value) > 3 else "",
)  # fmt: skip
def test_wrong_use_is_one_line_and_exit_2(
    run: Command, words: list[str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(*words)
    ran.failed(2, *said)
    assert ran.out == ""
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_with_json_is_an_object_too(run: Command) -> None:
    ran = run("dub", "--json", "--colour", "x")
    ran.failed(2)
    error = ran.record["error"]
    assert error["kind"] == "UsageError"
    assert error["exit_code"] == 2
    assert error["message"] in ran.err


def interrupted() -> list[machine.Check]:
    raise KeyboardInterrupt


def broken() -> list[machine.Check]:
    raise ZeroDivisionError("boom\nand more")


def test_stopping_is_exit_130(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "examine", interrupted)
    run("doctor").failed(130, "stopped", "starts again")


def test_our_own_bugs_are_one_line_but_with_debug(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "examine", broken)
    ran = run("doctor", "--json")
    ran.failed(1, "ZeroDivisionError: boom", "--debug")
    assert ran.record["error"]["kind"] == "DiffTalkerError"
    traced = run("doctor", "--debug")
    assert "Traceback" in traced.err
    assert traced.err.splitlines()[-1].startswith("difftalker: ")


def test_system_failures_are_one_line(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied() -> list[machine.Check]:
        raise PermissionError(errno.EACCES, "Permission denied", "/some/file")

    monkeypatch.setattr(machine, "examine", denied)
    run("doctor").failed(1, "/some/file", "Permission denied")


def test_what_a_library_prints_does_not_spoil_json(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chatty() -> list[machine.Check]:
        print("hello")
        return []

    monkeypatch.setattr(machine, "examine", chatty)
    ran = run("doctor", "--json")
    assert ran.record["ok"] is True
    assert "hello" in ran.err


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_outputs_of_any_name_are_written_and_shown_without_control_characters(
    run: Command, name: str, face: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    footage = tmp_path / f"{name}.in.mp4"
    footage.write_bytes(face.read_bytes())
    output, track, report = (tmp_path / f"{name}{end}" for end in (".mp4", ".npz", ".json"))
    words = ["dub", footage, speech, "--avatar", debug_avatar, "--output", output]
    ran = run(*words, "--landmarks-out", track, "--report", report)
    assert ran.code == 0, ran.err
    assert {output, track, report} <= set(tmp_path.iterdir())
    assert json.loads(report.read_text())["output"] == str(output)
    assert ran.out.rstrip("\n").isprintable()
    again = run(*words, "--landmarks", track, "--json")
    assert again.out.isascii()
    assert again.record["output"] == str(output)


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_an_avatar_of_an_odd_name_is_refused_before_the_work(
    run: Command, name: str, tmp_path: Path
) -> None:
    words = ["train", "missing.mp4", "--consent", "c", "--preset", "debug", "--start", "none"]
    ran = run(*words, "--output", tmp_path / name)
    assert ran.code in (1, 2)
    assert "printable" in ran.err
    assert ran.err.rstrip("\n").isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_failure_shows_no_control_characters(run: Command, name: str) -> None:
    ran = run("dub", name, "a.wav", "--avatar", "x", "--output", name)
    ran.failed(1)
    assert ran.err.rstrip("\n").isprintable()


def test_a_stream_that_cannot_show_a_character_is_no_failure(tmp_path: Path) -> None:
    code = (
        "import sys; from difftalker import doctor; from difftalker.cli import main; "
        "check = doctor.Check(name='\u00e4', ok=True, needed=True, found='', fix=''); "
        "doctor.examine = lambda: [check]; "
        "sys.exit(main(['doctor']) or main(['dub', '\u4e2d', 'a', '-a', '\u4e2d', '-o', 'o.mp4']))"
    )
    ran = process(code=code, cwd=tmp_path, encoding_of_streams="ascii")
    assert ran.code == 1
    assert r"\xe4" in ran.out
    assert r"\u4e2d" in ran.err
    assert "Traceback" not in ran.err
