"""Options of the configuration: which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from difftalker.config import ModelConfig, SynthesisConfig
from difftalker.errors import UsageError


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (
            SynthesisConfig,
            {"guidance": "sound"},
            "guidance is 'sound'; wanted landmarks or audio or both",
        ),
        (ModelConfig, {"mask": "chin"}, "mask is 'chin'; wanted jaw or mouth"),
    ],
)
def test_wrong_options_are_refused(kind: Any, wrong: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(**wrong)
