"""The command line as a whole: how it starts, and what it loads."""

from __future__ import annotations

import pytest

import difftalker
from helpers_cli import process


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
