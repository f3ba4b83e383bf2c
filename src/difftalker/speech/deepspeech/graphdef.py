"""Constants and operations of a frozen TensorFlow graph, read without TensorFlow.

Two formats: a serialised ``GraphDef`` (``.pb``), and one whose tensors lie beside it in the same
file to be mapped into memory (``.pbmm``, by ``convert_graphdef_memmapped_format``). Sources:
tensorflow/core/framework/{graph,node_def,attr_value,tensor}.proto and
tensorflow/core/util/memmapped_file_system.{cc,proto}, TensorFlow 1.15, Apache-2.0.

Every length is checked against what is left of the file. Nothing is executed.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import AssetError

Floats = NDArray[np.float32]

WANTED = "a frozen TensorFlow graph, .pb or .pbmm"
_FLOAT = 1
"""DT_FLOAT of types.proto."""
_PACKAGE = "memmapped_package://."
"""Name of the graph within a memory-mapped package; its tensors are named alike."""


@dataclass(frozen=True)
class Node:
    """One operation of a graph."""

    name: str
    op: str
    attributes: dict[str, memoryview]
    """Names to serialised ``AttrValue`` messages."""

    def number(self, name: str) -> float | None:
        """The attribute ``name`` where it is a float; None where it is absent."""
        fields = dict(_fields(self.attributes.get(name, memoryview(b""))))
        found = fields.get(4)
        return struct.unpack("<f", found)[0] if isinstance(found, memoryview) else None


@dataclass(frozen=True)
class Graph:
    """What was read."""

    nodes: list[Node]
    constants: dict[str, Floats]
    """Node names to tensors of type float32."""


def read_graph(file: Path) -> Graph:
    """Read a frozen graph.

    Raises:
        AssetError: the file is missing, truncated, damaged or of another format.
    """
    try:
        with file.open("rb") as opened:
            data = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        if bytes(data[4:8]) == b"TFL3":
            raise ValueError("it is a TensorFlow Lite model")
        regions = _regions(data)
        nodes = [_node(found) for number, found in _fields(_graph(data, regions)) if number == 1]
        constants = dict(_constants(nodes, data, regions))
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise AssetError(f"{file} cannot be read as a graph: {error}", wanted=WANTED) from error
    if not constants:
        raise AssetError(f"{file} is a graph without weights", wanted=WANTED)
    return Graph(nodes, constants)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of a protobuf message: numbers, or the bytes of anything else."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = {1: 8, 5: 4}[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if size > len(message) - at:
            raise ValueError("it ends within a message")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number in place of a message")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode("utf-8")


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("a message in place of a number")
    return value


def _node(message: int | memoryview) -> Node:
    name, op, attributes = "", "", {}
    for number, value in _fields(_bytes(message)):
        if number == 1:
            name = _text(value)
        elif number == 2:
            op = _text(value)
        elif number == 5:
            entry = dict(_fields(_bytes(value)))
            attributes[_text(entry[1])] = _bytes(entry.get(2, memoryview(b"")))
    return Node(name, op, attributes)


def _constants(
    nodes: list[Node], data: memoryview, regions: dict[str, tuple[int, int]]
) -> Iterator[tuple[str, Floats]]:
    for node in nodes:
        if node.op == "Const":
            found = _tensor(_attribute(node, "value", 8))
        elif node.op == "ImmutableConst":
            found = _mapped(node, data, regions)
        else:
            continue
        if found is not None:
            yield node.name, found


def _attribute(node: Node, name: str, field: int) -> memoryview:
    for number, value in _fields(node.attributes.get(name, memoryview(b""))):
        if number == field:
            return _bytes(value)
    raise ValueError(f"the node {node.name} has no {name}")


def _tensor(message: memoryview) -> Floats | None:
    """A ``TensorProto``; None where it holds no float32."""
    kind, shape = 0, []
    content, values = b"", b""
    for number, value in _fields(message):
        if number == 1:
            kind = _number(value)
        elif number == 2:
            shape = _shape(_bytes(value))
        elif number == 4:
            content = bytes(_bytes(value))
        elif number == 5:  # packed, or one field a number
            values += bytes(_bytes(value))
    return _array(content or values, shape) if kind == _FLOAT else None


def _shape(message: memoryview) -> list[int]:
    dims = [dict(_fields(_bytes(value))) for number, value in _fields(message) if number == 2]
    sizes = [_number(dim.get(1, 0)) for dim in dims]
    if any(size >= 1 << 40 for size in sizes):  # negative numbers are huge ones
        raise ValueError(f"a tensor of shape {sizes}")
    return sizes


def _array(content: bytes, shape: list[int]) -> Floats:
    """A value that stands alone fills the tensor, as TensorFlow has it."""
    count = math.prod(shape)
    flat = np.frombuffer(content, "<f4")
    if len(flat) == count:
        return flat.reshape(shape).astype(np.float32)
    if len(flat) == 1 and count <= 1 << 24:
        return np.full(shape, flat[0], np.float32)
    raise ValueError(f"a tensor of shape {shape} with {len(flat)} numbers")


def _mapped(node: Node, data: memoryview, regions: dict[str, tuple[int, int]]) -> Floats | None:
    """The tensor of an ``ImmutableConst``, from its region of the file."""
    kinds = dict(_fields(node.attributes.get("dtype", memoryview(b""))))
    if kinds.get(6) != _FLOAT:
        return None
    shape = _shape(_attribute(node, "shape", 7))
    name = _text(_attribute(node, "memory_region_name", 2))
    if name not in regions:
        raise ValueError(f"no region is called {name}")
    start, stop = regions[name]
    size = 4 * math.prod(shape)
    if size > stop - start:
        raise ValueError(f"the region {name} is shorter than its tensor")
    return _array(bytes(data[start : start + size]), shape)


def _regions(data: memoryview) -> dict[str, tuple[int, int]]:
    """Names to (start, stop) in a memory-mapped package; empty for a plain graph.

    The last eight bytes say where the directory lies, which runs up to them.
    """
    if len(data) < 8:
        raise ValueError(f"it has {len(data)} bytes")
    end = len(data) - 8
    (start,) = struct.unpack("<Q", data[end:])
    if start >= end:
        return {}
    try:
        found = [_region(value) for number, value in _fields(data[start:end]) if number == 1]
    except (ValueError, KeyError):
        return {}
    starts = sorted(place for _, place, _ in found)
    follow = dict(zip(starts, [*starts[1:], start], strict=True))
    # Packages of old give no lengths: then a region ends where the next one begins.
    return {
        name: (place, min(place + size if size else follow[place], start))
        for name, place, size in found
    }


def _region(message: int | memoryview) -> tuple[str, int, int]:
    fields = dict(_fields(_bytes(message)))
    return _text(fields[2]), _number(fields.get(1, 0)), _number(fields.get(3, 0))


def _graph(data: memoryview, regions: dict[str, tuple[int, int]]) -> memoryview:
    if _PACKAGE not in regions:
        return data
    start, stop = regions[_PACKAGE]
    return data[start:stop]
