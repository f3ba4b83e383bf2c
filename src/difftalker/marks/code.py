"""The watermark's words: who made a video and which job, with check bits and error correction.

A message is 24 bits of the maker, 24 of the job and 16 of CRC, sent by the convolutional code of
rate 1/3 and constraint length 7 with generators 133, 171, 165 (octal), whose free distance is 15.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

FIELD_BITS = 24
"""The bits of the maker, and as many of the job."""
_CRC_BITS = 16
MESSAGE_BITS = 2 * FIELD_BITS + _CRC_BITS
_GENERATORS, _LENGTH = (0o133, 0o171, 0o165), 7
CODED_BITS = len(_GENERATORS) * (MESSAGE_BITS + _LENGTH - 1)
_STATES = 1 << (_LENGTH - 1)

Floats = NDArray[np.floating]
Signs = NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class Message:
    """Who made a video, and which job."""

    maker: int
    """24 bits, from the maker's public key."""
    job: int
    """24 bits, from what the job was given."""

    def to_signs(self) -> Signs:
        """The coded bits (CODED_BITS,), +1 or -1."""
        data = _data(self)
        number = int.from_bytes(data + _crc(data).to_bytes(2, "big"), "big")
        bits = [(number >> i) & 1 for i in reversed(range(MESSAGE_BITS))]
        return _encoded(bits)

    @classmethod
    def from_soft(cls, soft: Floats) -> Message | None:
        """The most likely message of coded bits (CODED_BITS,), the surer the larger.

        None where its check bits are wrong.
        """
        number = 0
        for bit in _decoded(soft):
            number = number << 1 | bit
        whole = number.to_bytes(MESSAGE_BITS // 8, "big")
        data, crc = whole[:-2], int.from_bytes(whole[-2:], "big")
        if _crc(data) != crc:
            return None
        half = FIELD_BITS // 8
        return cls(maker=int.from_bytes(data[:half], "big"), job=int.from_bytes(data[half:], "big"))


def _data(message: Message) -> bytes:
    return b"".join(one.to_bytes(FIELD_BITS // 8, "big") for one in (message.maker, message.job))


def _crc(data: bytes) -> int:
    return binascii.crc_hqx(data, 0xFFFF)


@cache
def _outputs() -> Signs:
    """(states, 2, generators): what is sent where a bit comes in; a state is the last six bits."""
    registers = np.arange(2)[None] << (_LENGTH - 1) | np.arange(_STATES)[:, None]
    ones = [np.bitwise_count(registers & generator) % 2 for generator in _GENERATORS]
    return (2 * np.stack(ones, -1).astype(np.int8) - 1).astype(np.int8)


def _encoded(bits: list[int]) -> Signs:
    state, sent = 0, []
    for bit in [*bits, *[0] * (_LENGTH - 1)]:
        sent.append(_outputs()[state, bit])
        state = (bit << (_LENGTH - 1) | state) >> 1
    return np.concatenate(sent)


def _decoded(soft: Floats) -> list[int]:
    """The bits of the path that agrees best with what was received: Viterbi (1967)."""
    received = np.asarray(soft, np.float64).reshape(-1, len(_GENERATORS))
    gains = np.einsum("sbg,tg->tsb", _outputs().astype(np.float64), received)
    # A state is reached by its highest bit, from the two states that differ in their lowest one.
    states = np.arange(_STATES)
    bit = states >> (_LENGTH - 2)
    before = np.stack([(states << 1) % _STATES, (states << 1) % _STATES + 1], 1)
    best = np.full(_STATES, -np.inf)
    best[0] = 0.0
    choices = []
    for gain in gains:
        reached = best[before] + gain[before, bit[:, None]]
        choice = reached.argmax(1)
        best = reached[states, choice]
        choices.append(choice)
    state, bits = 0, []
    for choice in reversed(choices):
        bits.append(state >> (_LENGTH - 2))
        state = int(before[state, choice[state]])
    return bits[::-1][:MESSAGE_BITS]
