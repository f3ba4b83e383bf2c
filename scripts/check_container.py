"""The steps of the Containerfile in an empty root folder, where no container engine can be had.

    sudo python scripts/check_container.py [--speech FILE] [--output OUT.mp4]

A chroot with the system's and Python's folders, read-only, stands in for the base image. In it the
stage ``build`` is carried out with an empty environment. Then, as the image's user and with all but
``/tmp`` and ``/videos`` read-only, its health check runs and the packaged avatar speaks. What
``apt-get`` installs has to be there. It needs Linux and the rights of root. Pip's settings
(``PIP_INDEX_URL``, ...) and those of ``/etc/pip.conf`` are heeded.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from difftalker.packaged import samples

ROOT = Path(__file__).parents[1]
SYSTEM = ("bin", "sbin", "lib", "lib64", "usr", "etc", "proc", "sys", "dev")
NEW_MOUNTS = 0x00020000
"""CLONE_NEWNS of unshare(2)."""


def main() -> None:
    """Build and try it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--speech", type=Path, default=samples.speech())
    parser.add_argument("--output", type=Path, help="keep the video that was made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # In a child: its mounts end with it, before the folder below them is removed.
        inside = multiprocessing.get_context("fork").Process(
            target=built, args=(Path(folder), options)
        )
        inside.start()
        inside.join()
    raise SystemExit(inside.exitcode)


def built(root: Path, options: argparse.Namespace) -> None:
    """Build the image's files below ``root``, and try them."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS):
        raise SystemExit(f"no mounts of one's own: {os.strerror(ctypes.get_errno())}; run as root")
    mount("--make-rprivate", "/")
    stages = stages_of((ROOT / "Containerfile").read_text(encoding="utf-8"))
    binds(root)
    env = environment(stages["base"])
    for word, rest in stages["build"]:
        step(word, rest, root, env)
    runs_as_no_root(root, env | environment(stages["cpu"]), stages["cpu"], options)


def stages_of(recipe: str) -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage: the word and what follows it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in re.sub(r"\\\n\s*", "", recipe).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found[rest.split()[-1]] = steps = []
        elif word and word != "#":
            steps.append((word, rest))
    return found


def environment(steps: list[tuple[str, str]]) -> dict[str, str]:
    """What ENV sets."""
    pairs = [pair.split("=", 1) for word, rest in steps if word == "ENV" for pair in rest.split()]
    old = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    python = str(Path(sys.base_prefix) / "bin")
    return {name: value.replace("$PATH", f"{python}:{old}") for name, value in pairs}


def binds(root: Path) -> None:
    """The folders of this system, read-only, and empty ones."""
    packages = [one for one in Path("/opt").iterdir() if one.is_dir()]
    for there in (*(Path("/") / name for name in SYSTEM), Path(sys.base_prefix), *packages):
        here = root / there.relative_to("/")
        if there.is_dir() and not here.exists():
            here.mkdir(parents=True)
            mount("--rbind", str(there), str(here))
            mount("-o", "remount,bind,ro", str(here))
    root.chmod(0o755)
    for name in ("tmp", "videos"):
        (root / name).mkdir()
        (root / name).chmod(0o777)


def step(word: str, rest: str, root: Path, env: dict[str, str]) -> None:
    """One instruction of the stage ``build``."""
    if word == "WORKDIR":
        (root / rest.lstrip("/")).mkdir(parents=True)
    elif word == "COPY":
        *sources, _ = rest.split()
        for source in map(ROOT.joinpath, sources):
            where = root / "src" / source.name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, where)
    elif word == "RUN":
        print(f"RUN {rest}", flush=True)
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        subprocess.run(
            ["chroot", str(root), "/bin/sh", "-ec", f"cd /src; {rest}"], env=env | pip, check=True
        )


def runs_as_no_root(
    root: Path, env: dict[str, str], steps: list[tuple[str, str]], options: argparse.Namespace
) -> None:
    """What the image does when it runs, with nothing to write to but /tmp and /videos."""
    [user] = [rest for word, rest in steps if word == "USER"]
    [health] = re.findall(r"CMD (\[.*?\])", " ".join(rest for _, rest in steps))[:1]
    shutil.copy(options.speech, root / "videos/speech.wav")
    shutil.rmtree(root / "src")
    mount("--rbind", str(root), str(root))
    for name in ("tmp", "videos"):
        mount("--bind", str(root / name), str(root / name))
    mount("-o", "remount,bind,ro", str(root))
    talk = ["talk", "speech.wav", "--avatar", "grid-s1", "--output", "out.mp4"]
    for words in (json.loads(health), ["difftalker", *talk]):
        print(f"{user}: {' '.join(words)}", flush=True)
        inside = ["chroot", f"--userspec={user}", str(root), "/bin/sh", "-c"]
        subprocess.run([*inside, 'cd /videos; exec "$0" "$@"', *words], env=env, check=True)
    made = root / "videos/out.mp4"
    print(f"{made.stat().st_size} bytes of video, made as user {made.stat().st_uid}")
    if options.output:
        shutil.copy(made, options.output)


def mount(*words: str) -> None:
    """Call the program mount."""
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
