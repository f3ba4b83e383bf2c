"""What a decoder and its parent send each other.

Requests are JSON lines on the decoder's standard input: ``request`` (a number), ``task``, ``path``,
``folder``, ``limits``, ``arguments``; or ``stop``, the number of one to leave. Answers come back on
its standard output, each a head (kind, two lengths), JSON, and raw bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Facts = Mapping[str, Any]
"""What JSON knows."""
Task = Callable[..., Iterator[tuple[Facts, NDArray[Any] | None]]]
"""Called with path, limits and the request's own arguments; yields the answers."""

HEAD = struct.Struct("<cIQ")
"""Kind, bytes of JSON, bytes of data."""
ANSWER, END, FAILURE, LOG = b"a", b"e", b"f", b"l"
"""The kinds: one answer, the last one is over, an error, a line for the parent's log."""
