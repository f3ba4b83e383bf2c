"""The checks of the machine."""

from __future__ import annotations

from difftalker import doctor as machine


def test_a_missing_system_library_is_named() -> None:
    error = machine.missing_library(
        ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    )
    assert error is not None
    assert "libGL.so.1" in str(error)
    assert "apt-get install libgl1" in str(error)
    assert machine.missing_library(ImportError("No module named 'x'")) is None
