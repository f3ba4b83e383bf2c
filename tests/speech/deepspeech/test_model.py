"""DeepSpeech's model files: read without TensorFlow, answered as TensorFlow does."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from difftalker.core.hashing import sha256_of
from difftalker.errors import AssetError
from difftalker.speech.characters import levels
from difftalker.speech.deepspeech import model as deepspeech
from difftalker.speech.deepspeech.graphdef import read_graph
from difftalker.speech.deepspeech.model import (
    VARIABLE,
    Cell,
    DeepSpeechEncoder,
    cepstra_of,
    cepstra_of_old,
    load_deepspeech,
)
from difftalker.speech.encoder import encode_all
from difftalker.speech.registry import features_called, load_encoder

GOLDEN = Path(__file__).parents[2] / "golden"
NEW, OLD = GOLDEN / "deepspeech_09.pb", GOLDEN / "deepspeech_01.pb"

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def answers() -> dict[str, Floats]:
    with np.load(GOLDEN / "deepspeech.npz") as stored:
        return dict(stored)


# The formats, written by hand


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def node(name: str, op: str, attributes: Mapping[str, bytes]) -> bytes:
    body = field(1, name.encode()) + field(2, op.encode())
    for key, value in attributes.items():
        body += field(5, field(1, key.encode()) + field(2, value))
    return field(1, body)


def shape_of(array: Floats) -> bytes:
    return b"".join(field(2, field(1, size)) for size in array.shape)


def constant(name: str, array: Floats) -> bytes:
    tensor = field(1, 1) + field(2, shape_of(array)) + field(4, array.astype("<f4").tobytes())
    return node(name, "Const", {"dtype": field(6, 1), "value": field(8, tensor)})


def package(constants: Mapping[str, Floats], *, lengths: bool = True) -> bytes:
    """What ``convert_graphdef_memmapped_format`` writes."""
    data, directory, graph = b"", b"", b""
    for i, (name, array) in enumerate(constants.items()):
        data += b"\0" * (-len(data) % 64)
        region = f"memmapped_package://tensor{i}".encode()
        size = field(3, array.nbytes) if lengths else b""
        directory += field(1, field(1, len(data)) + field(2, region) + size)
        data += array.astype("<f4").tobytes()
        attributes = {
            "dtype": field(6, 1),
            "shape": field(7, shape_of(array)),
            "memory_region_name": field(2, region),
        }
        graph += node(name, "ImmutableConst", attributes)
    size = field(3, len(graph)) if lengths else b""
    directory += field(1, field(1, len(data)) + field(2, b"memmapped_package://.") + size)
    data += graph
    return data + directory + struct.pack("<Q", len(data))


ARRAYS = {
    "layer/weights": np.arange(12, dtype=np.float32).reshape(3, 4),
    "layer/bias": np.array([0.5, -2], np.float32),
}


@pytest.mark.parametrize("kind", ["plain", "mapped", "mapped of old"])
def test_constants_are_read(tmp_path: Path, kind: str) -> None:
    plain = b"".join(constant(name, array) for name, array in ARRAYS.items())
    mapped = package(ARRAYS, lengths=kind == "mapped")
    (tmp_path / "g").write_bytes(plain if kind == "plain" else mapped)
    found = read_graph(tmp_path / "g").constants
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_numbers_in_fields_of_their_own_are_read(tmp_path: Path) -> None:
    packed = field(5, struct.pack("<2f", 1, 2))
    single = varint(5 << 3 | 5) + struct.pack("<f", 7)
    shape = shape_of(np.zeros((2,), np.float32))
    graph = b"".join(
        node(name, "Const", {"value": field(8, field(1, 1) + field(2, shape) + values)})
        for name, values in (("packed", packed), ("splat", single))
    )
    (tmp_path / "g.pb").write_bytes(
        graph + node("other", "Const", {"value": field(8, field(1, 3))})
    )
    found = read_graph(tmp_path / "g.pb").constants
    assert {name: array.tolist() for name, array in found.items()} == {
        "packed": [1, 2],
        "splat": [7, 7],
    }


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "0 bytes|empty"),
        (b"PK\x03\x04" + b"\0" * 60, "cannot be read as a graph"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 60, "TensorFlow Lite"),
        (node("a", "NoOp", {}), "without weights"),
        (constant("a", ARRAYS["layer/bias"])[:-3], "ends within"),
    ],
)
def test_other_files_are_told(tmp_path: Path, data: bytes, found: str) -> None:
    (tmp_path / "g.pb").write_bytes(data)
    with pytest.raises(AssetError, match=rf"(?s)({found}).*wanted a frozen TensorFlow graph"):
        read_graph(tmp_path / "g.pb")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="cannot be read"):
        read_graph(tmp_path / "g.pb")


def test_regions_end_where_the_file_says(tmp_path: Path) -> None:
    tensor = {"a": np.zeros(8, np.float32)}
    short = package(tensor).replace(field(3, 32), field(3, 16))
    (tmp_path / "g.pbmm").write_bytes(short)
    with pytest.raises(AssetError, match="shorter than its tensor"):
        read_graph(tmp_path / "g.pbmm")


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10_000), value=st.integers(0, 255), mapped=st.booleans())
def test_damage_never_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, mapped: bool
) -> None:
    plain = b"".join(constant(name, array) for name, array in ARRAYS.items())
    data = bytearray(package(ARRAYS) if mapped else plain)
    data[place % len(data)] = value
    file = tmp_path_factory.mktemp("damage") / "g"
    file.write_bytes(data)
    with contextlib.suppress(AssetError):
        assert all(array.size <= 1 << 24 for array in read_graph(file).constants.values())


# The network


def test_cepstra_are_tensorflows(answers: dict[str, Floats]) -> None:
    found = cepstra_of(answers["samples"])
    np.testing.assert_allclose(found, answers["deepspeech_09_cepstra"], atol=1e-5)


def test_old_cepstra_are_the_references(answers: dict[str, Floats]) -> None:
    found = cepstra_of_old(answers["samples"])
    np.testing.assert_allclose(found, answers["deepspeech_01_cepstra"], atol=1e-4)


@pytest.mark.parametrize("name", ["deepspeech_09", "deepspeech_clipped", "deepspeech_01"])
def test_logits_are_tensorflows(answers: dict[str, Floats], name: str) -> None:
    net = load_deepspeech(GOLDEN / f"{name}.pb")
    assert (net.context, net.dim) == (9, 29)
    found = net(torch.from_numpy(answers[f"{name}_cepstra"])).numpy()
    np.testing.assert_allclose(found, answers[f"{name}_logits"], atol=1e-5)


def test_cells_without_steps_give_none() -> None:
    cell = Cell(kernel=torch.zeros(5, 8), bias=torch.zeros(8), clip=0)
    assert cell.run(torch.zeros(0, 3)).shape == (0, 2)


@pytest.mark.parametrize("file", [NEW, OLD], ids=["new", "old"])
def test_sound_becomes_levels(answers: dict[str, Floats], file: Path) -> None:
    encoder = DeepSpeechEncoder(file)
    samples = answers["samples"]
    found = encode_all(encoder, np.split(samples, [100, 7000]))
    logits = torch.from_numpy(answers[f"{file.stem}_logits"])
    np.testing.assert_allclose(found, levels(logits.log_softmax(-1)), atol=1e-5)
    assert encode_all(encoder, [samples[:-100]]).shape == (40, 29)


def test_mapped_models_are_the_same(tmp_path: Path, answers: dict[str, Floats]) -> None:
    constants = read_graph(NEW).constants
    weights = {name: array for name, array in constants.items() if array.ndim}
    (tmp_path / "m.pbmm").write_bytes(package(weights))
    cepstra = torch.from_numpy(answers["deepspeech_09_cepstra"])
    found = load_deepspeech(tmp_path / "m.pbmm")(cepstra)
    torch.testing.assert_close(found, load_deepspeech(NEW)(cepstra))


def test_other_graphs_are_told(tmp_path: Path) -> None:
    (tmp_path / "g.pb").write_bytes(constant("layer_1/weights", ARRAYS["layer/weights"]))
    with pytest.raises(AssetError, match=r"no DeepSpeech model.*wanted Mozilla DeepSpeech"):
        load_deepspeech(tmp_path / "g.pb")
    graph = NEW.read_bytes().replace(b"BlockLSTM", b"CudnnLSTM")
    (tmp_path / "c.pb").write_bytes(graph)
    with pytest.raises(AssetError, match="operation CudnnLSTM"):
        load_deepspeech(tmp_path / "c.pb")


# Its name


def test_the_environment_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(AssetError, match=f"{VARIABLE} set to a model file"):
        features_called("deepspeech")
    monkeypatch.setenv(VARIABLE, str(NEW))
    name = features_called("deepspeech")
    assert name == "deepspeech-" + sha256_of(NEW)[:16]
    encoder = load_encoder(name)
    assert (encoder.name, encoder.dim) == (name, 29)
    monkeypatch.setenv(VARIABLE, str(OLD))
    with pytest.raises(AssetError, match=r"that the avatar was trained with.*set"):
        load_encoder(name)
    monkeypatch.setenv(VARIABLE, str(NEW.with_name("nowhere.pb")))
    with pytest.raises(AssetError, match="cannot be read"):
        deepspeech.load_named(name)
