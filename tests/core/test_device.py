"""Precision: bfloat16 where the processor is fast in it and this process may be, nowhere else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import difftalker
from difftalker import doctor
from difftalker.config import StageConfig
from difftalker.core.device import autocast, has_fast_bfloat16, pick_device
from difftalker.errors import DiffTalkerError, UsageError
from difftalker.training.trainer import Trainer


def has_instructions(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """A processor with or without the instructions, and a process that nothing limits."""
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: there)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: there)
    monkeypatch.setattr(
        torch.backends.cpu, "get_cpu_capability", lambda: "AVX512" if there else "AVX2"
    )


def test_bfloat16_needs_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    has_instructions(monkeypatch, True)
    assert has_fast_bfloat16("cpu")
    has_instructions(monkeypatch, False)
    assert not has_fast_bfloat16("cpu")
    assert has_fast_bfloat16("cuda:0")
    assert not has_fast_bfloat16(torch.device("mps"))


@pytest.mark.parametrize(
    ("variable", "limit"),
    [("ONEDNN_MAX_CPU_ISA", "AVX2"), ("ONEDNN_MAX_CPU_ISA", "avx512_core_vnni"),
     ("DNNL_MAX_CPU_ISA", "SSE41")],
)  # fmt: skip
def test_a_limited_process_has_no_bfloat16(
    monkeypatch: pytest.MonkeyPatch, variable: str, limit: str
) -> None:
    has_instructions(monkeypatch, True)
    monkeypatch.setenv(variable, limit)
    assert not has_fast_bfloat16("cpu")
    monkeypatch.setenv(variable, "AVX512_CORE_BF16")
    assert has_fast_bfloat16("cpu")


def test_torch_limited_to_avx2_has_no_bfloat16() -> None:
    code = (
        "import torch; torch.cpu._is_avx512_bf16_supported = lambda: True\n"
        "from difftalker.core.device import has_fast_bfloat16; print(has_fast_bfloat16('cpu'))"
    )
    source = str(Path(difftalker.__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": source, "ATEN_CPU_CAPABILITY": "avx2"},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "False\n", ran.stderr


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
def test_the_context_has_the_precision(
    monkeypatch: pytest.MonkeyPatch, there: bool, enabled: bool
) -> None:
    has_instructions(monkeypatch, there)
    with autocast("cpu", enabled):
        made = torch.ones(2, 2) @ torch.ones(2, 2)
    assert made.dtype == (torch.bfloat16 if there and enabled else torch.float32)


def test_nothing_else_decides_on_precision() -> None:
    source = Path(difftalker.__file__).parent
    users = [p for p in source.rglob("*.py") if "torch.autocast(" in p.read_text()]
    assert users == [source / "core" / "device.py"]


class Line:
    """A task that notes the precision in which its loss is computed."""

    name = "line"
    examples = 2

    def __init__(self) -> None:
        self.model = nn.Linear(1, 1)
        self.seen: set[torch.dtype] = set()

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.ones(len(indices), 1)}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        made = self.model(batch["x"])
        self.seen.add(made.dtype)
        return {"loss": made.float().square().mean()}

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        return []

    def validate(self) -> dict[str, float]:
        return {}

    def sheet(self) -> NDArray[np.uint8] | None:
        return None


@pytest.mark.parametrize("there", [True, False])
def test_training_is_as_precise_as_the_processor_is_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    has_instructions(monkeypatch, there)
    task = Line()
    Trainer(task, StageConfig(steps=2, batch=2, learning_rate=0.01), tmp_path).run()
    assert task.seen == {torch.bfloat16 if there else torch.float32}


@pytest.mark.parametrize("there", [True, False])
def test_doctor_says_what_dubbing_and_training_compute_in(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    has_instructions(monkeypatch, there)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    check = doctor._tried("bfloat16", doctor._bfloat16, "", needed=False)
    assert check.ok == there
    assert "dubbing and training" in check.found
    assert ("float32" in check.found) != there


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == "mps"
    with pytest.raises(DiffTalkerError, match=r"no cuda device.*mps or cpu.*--device"):
        pick_device("cuda")
    with pytest.raises(UsageError, match="tpu"):
        pick_device("tpu")
