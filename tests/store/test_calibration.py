"""What was measured of one person: read strictly, and bounded."""

from __future__ import annotations

from typing import Any

import pytest

from difftalker.config import from_dict
from difftalker.errors import UsageError
from difftalker.store.calibration import MOST_ADDED, OPENINGS, UNMEASURED, Calibration


def test_a_calibration_is_read() -> None:
    openings = [0.001 * i for i in range(len(OPENINGS) - 1)]
    read = from_dict(Calibration, {"detail": 1, "openings": [*openings, 0]}, "here")
    assert read == Calibration(detail=1.0, openings=(*openings, 0.0))
    assert from_dict(Calibration, {}, "here") == UNMEASURED


@pytest.mark.parametrize(
    "wrong",
    [
        {"openings": [2 * MOST_ADDED] * len(OPENINGS)},
        {"openings": [0.01] * (len(OPENINGS) - 1)},
        {"openings": ["0"] * len(OPENINGS)},
        {"openings": 0.1},
        {"openings": [float("nan")] * len(OPENINGS)},
        {"detail": 2.1},
        {"detail": -0.1},
        {"detail": float("nan")},
        {"detail": "0.5"},
        {"mean_face": 1},
    ],
)
def test_what_no_calibration_can_say_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        from_dict(Calibration, wrong, "here")
