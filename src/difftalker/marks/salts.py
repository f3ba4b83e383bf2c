"""Equal jobs give equal bytes: the random salts of credentials are replaced by fixed ones.

The library salts every assertion with random numbers, so that nobody can guess an assertion that
was taken out from its hash. Nothing is taken out here. A salt that follows from the job replaces
each, then the hashes that follow from it, then the signature, in place. Ed25519 needs no random
numbers; with keys of other kinds signatures differ from run to run.

Source: C2PA specification 2.2, sections 8.3 (JUMBF, hashes of assertions) and 13.2 (COSE).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from difftalker.marks.metadata import boxes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

C2PA_BOX = UUID("d8fec3d6-1b0e-483c-9297-5828877ec481").bytes
_SALT_BYTES, _SIGNATURE_BYTES = 16, 64


@dataclass(frozen=True)
class _Box:
    """A box of JUMBF: ``begin`` to ``end``, header included."""

    kind: bytes
    begin: int
    end: int


def settle(path: Path, seed: str, key: Ed25519PrivateKey) -> bool:
    """Replace the salts of a signed MP4 or QuickTime file by some that follow from ``seed``.

    False, and the file as it was, where its credentials are not built as this expects.

    Raises:
        OSError: it cannot be written.
    """
    for kind, begin, size in boxes(path):
        if kind != b"uuid":
            continue
        with path.open("r+b") as file:
            file.seek(begin)
            box = file.read(size)
            if box[8:24] != C2PA_BOX:
                continue
            at = box.index(b"jumb") - 4
            settled = _settled(bytearray(box[at:]), seed, key)
            if settled is not None:
                file.seek(begin + at)
                file.write(settled)
            return settled is not None
    return False


def _settled(store: bytearray, seed: str, key: Ed25519PrivateKey) -> bytes | None:
    """The manifest store with other salts; None where it is not built as expected."""
    from cryptography.exceptions import InvalidSignature

    try:
        active = _inner(store, _Box(b"jumb", 0, len(store)))[-1]
        assertions, claim, signed = _inner(store, active)[1:4]
        signature = _inner(store, signed)[-1]
        place = store.rindex(b"\xf6\x58\x40", signature.begin, signature.end) + 3
        old = bytes(store[place : place + _SIGNATURE_BYTES])
        key.public_key().verify(old, _signed_part(store, claim, signature))
    except (ValueError, LookupError, struct.error, InvalidSignature):
        return None
    # Those of ingredients first: other assertions hold their hashes.
    every = sorted(
        _inner(store, assertions)[1:], key=lambda box: b"ingredient" not in _head(store, box)
    )
    hashes = [_hash(store, box) for box in every]
    for i, (box, before) in enumerate(zip(every, hashes, strict=True)):
        salt = store.find(b"c2sh", box.begin, box.begin + len(_head(store, box)) + 8) + 4
        if salt < 4:
            continue
        fixed = hashlib.sha256(f"{seed} {i}".encode()).digest()[:_SALT_BYTES]
        store[salt : salt + _SALT_BYTES] = fixed
        part = store[active.begin : active.end].replace(before, _hash(store, box))
        store[active.begin : active.end] = part
    new = key.sign(_signed_part(store, claim, signature))
    store[place : place + _SIGNATURE_BYTES] = new
    return bytes(store)


def _inner(store: bytearray, box: _Box) -> list[_Box]:
    """The boxes within a box."""
    return list(_walk(store, box.begin + 8, box.end))


def _walk(store: bytearray, begin: int, end: int) -> Iterator[_Box]:
    while begin < end:
        size, kind = struct.unpack_from(">I4s", store, begin)
        if size < 8 or begin + size > end:
            raise ValueError("a box that reaches beyond its outer one")
        yield _Box(kind, begin, begin + size)
        begin += size


def _head(store: bytearray, box: _Box) -> bytes:
    """The description of a box: its type, its name and its salt."""
    first = _inner(store, box)[0]
    return bytes(store[first.begin : first.end])


def _hash(store: bytearray, box: _Box) -> bytes:
    return hashlib.sha256(store[box.begin + 8 : box.end]).digest()


def _signed_part(store: bytearray, claim: _Box, signature: _Box) -> bytes:
    """What a COSE_Sign1 signs (RFC 9052, section 4.4)."""
    content = _inner(store, claim)[-1]
    stated = bytes(store[content.begin + 8 : content.end])
    begin = signature.begin + 8
    if bytes(store[begin : begin + 2]) != b"\xd2\x84":
        raise ValueError("no COSE_Sign1")
    protected = _byte_string(store, begin + 2)
    return b"".join((b"\x84\x6aSignature1", _cbor(protected), b"\x40", _cbor(stated)))


def _byte_string(store: bytearray, at: int) -> bytes:
    """The byte string of CBOR that begins there."""
    short = store[at] - 0x40
    if 0 <= short < 24:
        return bytes(store[at + 1 : at + 1 + short])
    width = {24: 1, 25: 2, 26: 4}[short]
    size = int.from_bytes(store[at + 1 : at + 1 + width], "big")
    return bytes(store[at + 1 + width : at + 1 + width + size])


def _cbor(content: bytes) -> bytes:
    """Bytes as a byte string of CBOR."""
    size = len(content)
    if size < 24:
        return bytes([0x40 + size]) + content
    for code, width in ((0x58, 1), (0x59, 2), (0x5A, 4)):
        if size < 256**width:
            return bytes([code]) + size.to_bytes(width, "big") + content
    raise ValueError("too long")
