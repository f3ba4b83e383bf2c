"""Options of the configuration: which are refused, and which have had other names."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from difftalker.config import Config, ModelConfig, SynthesisConfig, from_saved, override, paper
from difftalker.config.codec import RENAMED
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


def test_saved_settings_may_have_their_former_names() -> None:
    text = json.dumps(dataclasses.asdict(paper()))
    for former, name in RENAMED.items():
        assert f'"{name}"' in text
        text = text.replace(f'"{name}"', f'"{former}"')
    assert from_saved(Config, json.loads(text), "config.json") == paper()


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("model.completion.rests", "use hold_in_silence"),
        ("training.synthesis.step", "use steps"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(paper(), {key: "1"})
    assert caught.value.fix == near
