"""The command line: what it prints, how it exits, and what it leaves behind."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import difftalker
from difftalker import config
from difftalker import doctor as machine
from difftalker.cli import main
from difftalker.core.device import pick_device
from difftalker.data.footage import find_footage
from difftalker.data.prepare import VERSION, Clip
from difftalker.dubbing import networks
from difftalker.errors import DiffTalkerError, MediaError, UsageError
from difftalker.media.video import VideoWriter, read_frames
from difftalker.packaged import samples
from difftalker.store import assets
from difftalker.store import avatars as avatar

ROOT = Path(__file__).parents[2]
SHARED_CLIP = ROOT.parent / "shared" / "data" / "grid" / "s1" / "bbal6n.mpg"
FACE_FRAMES = 6
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        """The one object on standard output."""
        [line] = self.out.splitlines()
        record: dict[str, Any] = json.loads(line)
        return record

    def failed(self, code: int, *texts: str) -> None:
        """Exit code, and one line on standard error that says these things."""
        assert self.code == code, self.err
        # A progress bar that was wiped away may stand before the line.
        [line] = [text.rpartition("\r")[2] for text in self.err.rstrip("\n").split("\n")]
        assert line.startswith("difftalker: "), self.err
        assert [text for text in texts if text not in line] == [], line


Command = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line within this process."""

    def carry_out(*words: str | Path) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Ran(code, *capsys.readouterr())

    return carry_out


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def debug_avatar(folder: Path) -> Path:
    """An untrained avatar of the smallest preset."""
    torch.manual_seed(0)
    model = config.preset("debug").model
    nets = networks.build(model)
    avatar.write(
        folder / "avatar",
        name="nobody",
        config=nets.resolved(model),
        architecture=nets.architecture(),
        weights=nets.state(),
        facts={},
        card="untrained",
    )
    return folder / "avatar"


@pytest.fixture(scope="session")
def speech(folder: Path) -> Path:
    """A second of something like a voice."""
    time_s = np.arange(16000) / 16000
    tone = np.sign(np.sin(2 * np.pi * 120 * time_s)) * (1 + np.sin(2 * np.pi * 4 * time_s)) / 2
    return write_wav(folder / "speech.wav", 0.3 * tone)


@pytest.fixture(scope="session")
def noise(folder: Path, speech: Path) -> Path:
    """A video that shows no face."""
    return write_video(folder / "noise.mp4", noise_images(5, 160, 120), speech)


@pytest.fixture(scope="session")
def face(folder: Path, speech: Path) -> Path:
    """A few frames that show a face."""
    try:
        source = samples.footage()
    except MediaError:
        source = SHARED_CLIP
    if not source.is_file():
        pytest.skip("no footage of a face here: the packaged sample is not made yet")
    images = [f.image for f in itertools.islice(read_frames(source), FACE_FRAMES)]
    return write_video(folder / "face.mp4", images, speech)


def noise_images(count: int, width: int, height: int) -> list[Image]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def write_video(path: Path, images: list[Image], audio: Path | None = None) -> Path:
    height, width = images[0].shape[:2]
    writer = VideoWriter(
        path, width=width, height=height, fps=25, time_base=Fraction(1, 25), audio=audio
    )
    with writer:
        for i, image in enumerate(images):
            writer.write(image, i)
    return path


def write_wav(path: Path, samples_: NDArray[np.floating]) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((samples_ * 32767).astype("<i2").tobytes())
    return path


def process(*words: str | Path, code: str = "", **options: Any) -> Ran:
    """The command line, or some code, in a process of its own."""
    start = ["-c", code] if code else ["-m", "difftalker"]
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *start, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        **options,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


# --- wrong use -----------------------------------------------------------------------------------


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


def test_an_unknown_sampler_is_wrong_use(
    run: Command, noise: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    ran = run("dub", noise, speech, "-a", debug_avatar, "-o", tmp_path / "o.mp4", "--sampler", "x")
    ran.failed(2, "'x'", "ddim")


# --- options that name files ---------------------------------------------------------------------


def test_outputs_are_checked_before_work(
    run: Command, noise: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    good = tmp_path / "o.mp4"

    def dub(output: Path, *more: str | Path) -> Ran:
        return run("dub", noise, speech, "--avatar", debug_avatar, "--output", output, *more)

    dub(tmp_path / "none" / "o.mp4").failed(1, "none", "mkdir -p")
    dub(tmp_path / "file" / "o.mp4").failed(1, "file")
    dub(tmp_path / "folder.mp4").failed(1, "folder.mp4", "is a folder")
    dub(tmp_path / "o.gif").failed(1, "'.gif'", ".mp4")
    dub(good, "--lossless").failed(1, "'.mp4'", ".mkv")
    dub(good, "--landmarks-out", tmp_path / "none" / "l.npz").failed(1, "none", "mkdir -p")
    dub(good, "--landmarks-out", tmp_path / "l.txt").failed(1, "'.txt'", ".npz")
    dub(noise).failed(2, "noise.mp4", "both input and output")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is open to the superuser")
def test_an_output_folder_closed_to_writing(
    run: Command, noise: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    ran = run("dub", noise, speech, "--avatar", debug_avatar, "--output", tmp_path / "o.mp4")
    tmp_path.chmod(0o700)
    ran.failed(1, "closed to writing")


@pytest.fixture
def tiny_files() -> Iterator[None]:
    """Every file ends at 192 kB, as on a disk that fills up on the way."""
    resource = pytest.importorskip("resource")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (192 << 10, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@pytest.mark.usefixtures("face", "tiny_files")  # the footage is written before the disk is full
def test_a_full_disk_leaves_no_video(
    run: Command, face: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    output = tmp_path / "o.mkv"  # lossless, and so larger than that
    ran = run("dub", face, speech, "--avatar", debug_avatar, "--output", output, "--lossless")
    ran.failed(1, "could not write", "o.mkv", "free space")
    # The hidden folder holds finished work, from which the same command goes on.
    assert {path.name for path in tmp_path.iterdir()} <= {".o.mkv.dubbing"}


def test_a_full_disk_leaves_no_landmarks(
    run: Command,
    face: Path,
    speech: Path,
    debug_avatar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(file: Any, **arrays: Any) -> None:
        file.write(b"begun")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez_compressed", full)
    video, points = tmp_path / "o.mp4", tmp_path / "l.npz"
    words = ("dub", face, speech, "--avatar", debug_avatar, "--output", video)
    run(*words, "--landmarks-out", points).failed(1, "l.npz", "No space left", "free space")
    assert list(tmp_path.iterdir()) == [video]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda a: shutil.rmtree(a), "there is no avatar"),
        (lambda a: (a / "config.json").unlink(), "config.json is missing"),
        (lambda a: (a / "config.json").write_text("{"), "is damaged"),
        (lambda a: (a / "synthesis.safetensors").unlink(), "lacks its file synthesis.safetensors"),
        (lambda a: os.truncate(a / "completion.safetensors", 1000), "truncated or altered"),
        (lambda a: (a / "card.md").write_text("another"), "truncated or altered"),
    ],
    ids=["folder", "config", "json", "missing", "truncated", "altered"],
)
def test_a_damaged_avatar(
    run: Command,
    noise: Path,
    speech: Path,
    debug_avatar: Path,
    tmp_path: Path,
    damage: Callable[[Path], Any],
    said: str,
) -> None:
    damaged = shutil.copytree(debug_avatar, tmp_path / "damaged")
    damage(damaged)
    run("dub", noise, speech, "-a", damaged, "-o", tmp_path / "o.mp4").failed(1, "damaged", said)
    assert not (tmp_path / "o.mp4").exists()


def test_footage_that_cannot_be_used(
    run: Command, noise: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("these are words " * 100)
    (tmp_path / "cut.mp4").write_bytes(noise.read_bytes()[:200])
    write_video(tmp_path / "small.mp4", noise_images(5, 16, 16))

    def dub(video: Path) -> Ran:
        return run("dub", video, speech, "-a", debug_avatar, "-o", tmp_path / "out" / "o.mp4")

    (tmp_path / "out").mkdir()
    dub(tmp_path / "none.mp4").failed(1, "no such file")
    dub(tmp_path).failed(1, "is not a file")
    dub(tmp_path / "empty.mp4").failed(1, "empty")
    dub(tmp_path / "text.mp4").failed(1, "text.mp4", "not a media file")
    dub(tmp_path / "cut.mp4").failed(1, "cut.mp4")
    dub(speech).failed(1, "no video track")
    dub(noise).failed(1, "no face", "noise.mp4")
    dub(tmp_path / "small.mp4").failed(1, "small.mp4", "wanted")
    assert list((tmp_path / "out").iterdir()) == []


def test_sound_that_cannot_be_used(
    run: Command, face: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    mute = write_video(tmp_path / "mute.mp4", noise_images(2, 32, 32))
    nothing = write_wav(tmp_path / "nothing.wav", np.zeros(0))

    def dub(audio: Path) -> Ran:
        return run("dub", face, audio, "-a", debug_avatar, "-o", tmp_path / "out" / "o.mp4")

    (tmp_path / "out").mkdir()
    dub(tmp_path / "none.wav").failed(1, "no such file")
    dub(mute).failed(1, "no sound track")
    dub(nothing).failed(1, "nothing.wav", "wanted")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_network_at_the_first_start(
    run: Command,
    noise: Path,
    speech: Path,
    debug_avatar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIFFTALKER_OFFLINE", "1")
    monkeypatch.setenv("DIFFTALKER_CACHE", str(tmp_path / "cache"))
    ran = run("dub", noise, speech, "-a", debug_avatar, "-o", tmp_path / "o.mp4")
    ran.failed(1, "face_landmarker.task", "python -m difftalker.store.assets")
    assert not (tmp_path / "o.mp4").exists()


# --- the commands --------------------------------------------------------------------------------


def test_dub_tells_what_it_made(
    run: Command, face: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    video, points = tmp_path / "o.mp4", tmp_path / "l.npz"
    words = ("dub", face, speech, "--avatar", debug_avatar, "--output", video, "--threads", "1")
    ran = run(*words, "--landmarks-out", points, "--steps", "1", "--seed", "3", "--json")
    assert ran.code == 0, ran.err
    told = ran.record
    assert (told["output"], told["landmarks"]) == (str(video), str(points))
    assert (told["frames"], told["frames_driven"]) == (FACE_FRAMES, FACE_FRAMES)
    assert (told["seed"], told["steps"], told["avatar"]) == (3, 1, "nobody")
    assert len(list(read_frames(video))) == FACE_FRAMES
    with np.load(points) as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
        side, centre = arrays["side_px"][:, None, None], arrays["centre_px"][:, None]
        back = (arrays["points_crop"] - 0.5) * side + centre
        np.testing.assert_allclose(back, arrays["points_px"], atol=1e-3)
    assert (
        shapes.items()
        >= {
            "times_s": (FACE_FRAMES,),
            "points_crop": (FACE_FRAMES, 68, 2),
            "points_px": (FACE_FRAMES, 68, 2),
            "found": (FACE_FRAMES,),
            "centre_px": (FACE_FRAMES, 2),
            "side_px": (FACE_FRAMES,),
            "boxes": (FACE_FRAMES, 4),
        }.items()
    )


def test_silence_and_large_pictures_work(
    run: Command, face: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    images = [frame.image for frame in itertools.islice(read_frames(face), 2)]
    large = [np.asarray(cv2.resize(image, (3840, 2160)), np.uint8) for image in images]
    video = write_video(tmp_path / "large.mp4", large)
    silence = write_wav(tmp_path / "silence.wav", np.zeros(8000))
    ran = run("dub", video, silence, "-a", debug_avatar, "-o", tmp_path / "o.mp4")
    assert ran.code == 0, ran.err
    assert next(read_frames(tmp_path / "o.mp4")).image.shape == (2160, 3840, 3)


def test_demo_makes_video_and_sheet(
    run: Command,
    face: Path,
    speech: Path,
    debug_avatar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(debug_avatar, tmp_path / "packaged" / samples.AVATAR)
    shutil.copy(face, tmp_path / f"{samples.AVATAR}-footage.mp4")
    shutil.copy(speech, tmp_path)
    monkeypatch.setattr(avatar, "PACKAGED", tmp_path / "packaged")
    monkeypatch.setattr(samples, "_FOLDER", tmp_path)
    out = tmp_path / "out" / "demo.mp4"
    ran = run("demo", "--output", out, "--json")
    assert ran.code == 0, ran.err
    assert ran.record["sheet"] == str(out.with_suffix(".png"))
    sheet = cv2.imread(str(out.with_suffix(".png")))
    assert sheet is not None
    height, width = next(read_frames(out)).image.shape[:2]
    assert sheet.shape == (2 * height, FACE_FRAMES * width, 3)
    plain, drawn = sheet[:height].astype(int), sheet[height:].astype(int)
    assert 0.002 < (np.abs(plain - drawn).max(-1) > 40).mean() < 0.2
    assert sorted(path.name for path in out.parent.iterdir()) == ["demo.mp4", "demo.png"]


def test_demo_without_its_samples(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_FOLDER", tmp_path)
    run("demo", "--output", tmp_path / "out" / "o.mp4").failed(1, "footage.mp4 is missing")
    assert not (tmp_path / "out").exists()


def test_prepare_leaves_out_what_shows_no_face(run: Command, noise: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(noise, tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "notes.txt").write_text("no footage")
    words = ("prepare", tmp_path / "in", "--output", tmp_path / "d", "--features", "mel")
    ran = run(*words, "--workers", "1", "--json")
    assert ran.code == 1
    assert ran.err.count("\n") == 2
    assert "left out a.mp4: no face was found" in ran.err
    assert "none of 1 files" in ran.record["error"]["message"]
    assert not (tmp_path / "d" / "manifest.json").exists()


def test_train_writes_an_avatar_once_all_stages_are_done(run: Command, tmp_path: Path) -> None:
    dataset, out = write_dataset(tmp_path / "dataset"), tmp_path / "new" / "anna"
    words = ("train", dataset, "--output", out, "--preset", "debug", "--json")
    first = run(*words, "--stage", "landmarks", "--stage", "autoencoder")
    assert first.code == 0, first.err
    assert first.record["avatar"] is None
    assert first.record["unfinished"] == ["prior", "synthesis", "decoder"]
    assert not out.exists()
    steps = ("--set", "training.synthesis.steps=2")
    ran = run(*words, *steps, "--consent", "Anna, in person", "--source", "noise, CC0")
    assert ran.code == 0, ran.err
    assert ran.record["avatar"] == str(out)
    assert ran.record["unfinished"] == []
    assert ran.record["run"] == str(tmp_path / "new" / "anna-run")
    written = avatar.read(out)
    assert written.name == "anna"
    assert written.facts["stages"]["synthesis"]["steps"] == 2
    card = (out / "card.md").read_text()
    assert "Anna, in person" in card
    assert "noise, CC0" in card
    assert difftalker.load(out).config.preset == "debug"


def test_train_leaves_other_folders_alone(run: Command, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "config.json").write_text('{"mine": 1}')
    words = ("train", tmp_path / "d", "--consent", "c", "--preset", "debug", "--output")
    run(*words, tmp_path / "letters").failed(1, "letters", "other things")
    run(*words, tmp_path / "letters" / "config.json").failed(1, "is a file")
    run(*words, tmp_path / "new").failed(1, "no such file")
    assert (tmp_path / "letters" / "config.json").read_text() == '{"mine": 1}'
    assert [path.name for path in tmp_path.iterdir()] == ["letters"]


def write_dataset(path: Path, clips: int = 3, frames: int = 24, size: int = 64) -> Path:
    """A prepared dataset of noise."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0.2, 0.8, (68, 2))
    found = []
    for name in (f"clip{i}" for i in range(clips)):
        clip = path / "clips" / name
        clip.mkdir(parents=True)
        np.save(clip / "frames.npy", rng.integers(0, 256, (frames, size, size, 3), np.uint8))
        np.save(clip / "mel.npy", rng.normal(size=(2 * frames, 80)).astype(np.float16))
        np.savez(
            clip / "track.npz",
            points_crop=(points + rng.normal(0, 0.01, (frames, 68, 2))).astype(np.float32),
            boxes=np.tile(np.array([32, 64, 8, 56], np.int32), (frames, 1)),
            centre_px=np.full((frames, 2), 32, np.float32),
            side_px=np.full(frames, 64, np.float32),
            times_s=np.arange(frames) / 25,
            found=np.ones(frames, bool),
        )
        facts = Clip(
            name=name, source="", sha256="", frames=frames, found=frames, fps=25.0, files={}
        )
        found.append(asdict(facts))
    manifest = {"version": VERSION, "config": {"size_px": size, "features": ["mel"]}}
    text = json.dumps({**manifest, "clips": found, "rejected": []})
    (path / "manifest.json").write_text(text)
    return path


def test_evaluate_prints_its_report(
    run: Command, face: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    words = ("evaluate", debug_avatar, face, "--report", tmp_path / "r", "--rows", "own_audio")
    others = ("--ablation", f"again={debug_avatar}", "--predictions", f"copy={face.parent}")
    ran = run(*words, *others, "--steps", "1", "--json")
    assert ran.code == 0, ran.err
    stored = json.loads((tmp_path / "r" / "report.json").read_text())
    assert ran.record == {"report": str(tmp_path / "r" / "report.json"), **stored}
    rows = stored["rows"]
    assert list(rows) == ["own_audio", "again", "copy"]
    assert rows["again"]["psnr_lower"] == rows["own_audio"]["psnr_lower"]
    assert rows["copy"]["ssim_crop"]["mean"] == 1
    assert (tmp_path / "r" / "report.html").is_file()


def test_evaluate_wants_rows_of_different_names(
    run: Command, face: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    words = ("evaluate", debug_avatar, face, "--report", tmp_path / "r")
    ran = run(*words, "--predictions", f"real={face.parent}")
    ran.failed(2, "two rows are called 'real'", "NAME=")
    assert not (tmp_path / "r").exists()


def test_doctor_names_the_fix(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFTALKER_CACHE", str(tmp_path))
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert ran.err == ""
    checks = {check["name"]: check for check in ran.record["checks"]}
    assert ran.record["ok"] is False
    assert checks["torch"]["ok"]
    assert checks["video and sound"]["ok"]
    assert [c for c in checks.values() if bool(c["fix"]) == c["ok"]] == []
    for name in assets.ASSETS:
        assert checks[f"weights {name}"]["fix"] == "python -m difftalker.store.assets"
    assert not checks["face detector"]["ok"]


def test_doctor_is_content_where_all_is_there(
    run: Command, debug_avatar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(debug_avatar, tmp_path / samples.AVATAR)
    monkeypatch.setattr(avatar, "PACKAGED", tmp_path)
    monkeypatch.setattr(assets, "is_cached", lambda name: assets.cache_dir().is_dir())
    ran = run("doctor")
    assert "MISSING" not in ran.out
    assert ran.code == 0


# --- the house's rules ---------------------------------------------------------------------------


def test_a_missing_system_library_is_named() -> None:
    error = machine.missing_library(
        ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    )
    assert error is not None
    assert "libGL.so.1" in str(error)
    assert "apt-get install libgl1" in str(error)
    assert machine.missing_library(ImportError("No module named 'x'")) is None


def test_a_device_that_is_not_there(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == "mps"
    with pytest.raises(DiffTalkerError, match=r"no cuda device.*mps or cpu.*--device"):
        pick_device("cuda")
    with pytest.raises(UsageError, match="tpu"):
        pick_device("tpu")


def interrupted() -> list[machine.Check]:
    raise KeyboardInterrupt


def broken() -> list[machine.Check]:
    raise ZeroDivisionError("boom\nand more")


def test_stopping_is_exit_130(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "examine", interrupted)
    run("doctor").failed(130, "stopped")


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


@pytest.mark.parametrize(
    "code",
    [
        "import difftalker",
        "from difftalker.cli import main; main(['--version'])",
        "from difftalker.cli import main; main(['--help'])",
        "from difftalker.cli import main; main(['dub', '--nonsense'])",
    ],
)
def test_nothing_heavy_is_loaded_without_need(code: str) -> None:
    heavy = "{'torch', 'mediapipe', 'diffusers', 'av', 'numpy', 'cv2'}"
    ran = process(code=f"import sys; {code}; print(); print(sorted({heavy} & set(sys.modules)))")
    assert ran.out.splitlines()[-1] == "[]", ran


def test_the_module_runs_as_the_command() -> None:
    ran = process("--version")
    assert (ran.code, ran.out.strip(), ran.err) == (0, difftalker.__version__, "")
    process("--colour").failed(2, "--colour")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MOV", "c.txt", "sub"):
        (tmp_path / name).touch()
    (tmp_path / "list.json").write_text('{"test": ["b"], "bad": 3}')
    return tmp_path


def test_footage_is_found_in_folders_and_by_name(clips: Path) -> None:
    assert [p.name for p in find_footage([clips])] == ["a.MOV", "b.mp4"]
    assert [p.name for p in find_footage([clips / "c.txt", clips])] == ["c.txt", "a.MOV", "b.mp4"]
    assert [p.name for p in find_footage([clips], ["b", "a", "b"])] == ["b.mp4", "a.MOV"]
    assert [p.name for p in find_footage([clips], [f"{clips}/list.json:test"])] == ["b.mp4"]


@pytest.mark.parametrize(
    ("paths", "names", "said"),
    [
        (["none"], [], "no such file"),
        (["empty"], [], "no video files"),
        (["."], ["z"], "first z"),
        (["."], ["list.json:train"], "no clips under 'train'"),
        (["."], ["list.json:bad"], "no list"),
        (["."], ["none.json:test"], "FileNotFoundError"),
    ],
)
def test_footage_that_is_not_there(
    clips: Path, paths: list[str], names: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clips)
    (clips / "empty").mkdir()
    with pytest.raises(MediaError, match=said):
        find_footage([Path(path) for path in paths], names)
