#!/usr/bin/env bash
# Builds the wheel, installs it without extras into an empty environment, and makes the demo there,
# in a folder far from the checkout. `make wheel-demo` calls it with a Python that has pip.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(cd "$checkout" && command -v "${1:-python3}")
[[ $python == /* ]] || python=$checkout/$python
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

rm -rf "$checkout/build" # files that were moved since would be in the wheel
"$python" -m pip wheel -q --no-input --no-deps --wheel-dir "$folder" "$checkout"
"$python" -m venv "$folder/venv"
install=("$folder/venv/bin/python" -m pip install -q --no-input -c "$checkout/constraints.txt")
"${install[@]}" torch # first: nothing installed later has then to choose a build of it
"${install[@]}" "$folder"/*.whl

cd "$folder"
# -I: neither PYTHONPATH nor the current folder is searched for modules.
venv/bin/python -I -m difftalker.store.assets
venv/bin/python -I -m difftalker demo --output demo.mp4
venv/bin/python -I - <<'PYTHON'
from pathlib import Path

import av

import difftalker

assert Path(difftalker.__file__).is_relative_to(Path.cwd()), difftalker.__file__
with av.open("demo.mp4") as video:
    frames = sum(1 for _ in video.decode(video=0))
assert frames == 150, f"found {frames} frames in the demo; wanted 150"
print(f"difftalker {difftalker.__version__}: the wheel's demo has {frames} frames")
PYTHON
