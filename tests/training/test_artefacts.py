"""What stages leave: complete or absent, checked, and all that is read of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from difftalker.config import STAGES
from difftalker.errors import TrainingError
from difftalker.store.calibration import Calibration
from difftalker.training.artefacts import Artefact, Facts, load, load_facts, save
from difftalker.training.stages import TABLE

FACTS = Facts(stage="decoder", steps=6, seconds=1.5, seed=0, validation={"psnr": 20.0}, config={})
LEFT = Artefact(
    weights={"autoencoder": {"kl.weight": torch.arange(4.0)}, "motion": {"mean": torch.ones(2)}},
    calibration=Calibration(detail=0.5),
)


def test_an_artefact_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "artefact"
    assert load_facts(folder) is None
    save(folder, LEFT, FACTS)
    assert load_facts(folder) == FACTS
    found = load(folder)
    assert found.calibration == LEFT.calibration
    assert found.weights.keys() == LEFT.weights.keys()
    assert torch.equal(found.weights["autoencoder"]["kl.weight"], torch.arange(4.0))
    assert sorted(one.name for one in folder.iterdir()) == ["facts.json", "weights.safetensors"]


def test_a_damaged_artefact_and_one_of_another_version_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "artefact"
    save(folder, LEFT, FACTS)
    weights, facts = folder / "weights.safetensors", folder / "facts.json"
    whole, known = weights.read_bytes(), json.loads(facts.read_text())
    weights.write_bytes(whole[:-1] + b"x")
    with pytest.raises(TrainingError, match=r"artefact is damaged.*hash"):
        load(folder)
    weights.write_bytes(whole)
    for changed, told in (({"format": 2}, "format 2"), ({"more": 1}, "damaged")):
        facts.write_text(json.dumps({**known, **changed}))
        with pytest.raises(TrainingError, match=told):
            load(folder)
    facts.write_text("{")
    with pytest.raises(TrainingError, match="damaged"):
        load_facts(folder)


def test_stages_are_in_the_order_of_what_they_need() -> None:
    assert tuple(TABLE) == STAGES
    for name, stage in TABLE.items():
        assert all(STAGES.index(one) < STAGES.index(name) for one in stage.needs)
