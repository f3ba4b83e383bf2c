"""Marks in a file's metadata: IPTC's digital source type in XMP, the label of GB 45438, a checksum.

XMP lies in a box of its own at the end of MP4 and QuickTime (XMP specification, part 3); Matroska
has the same facts as tags. The checksum of all that is before it lies last, in a ``free`` box.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID
from xml.sax.saxutils import quoteattr

XMP_BOX = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes
TYPE_TAG, AIGC_TAG, JOB_TAG = "DIGITAL_SOURCE_TYPE", "AIGC", "DIFFTALKER_JOB"
"""Tags in Matroska; the second one in MP4 too."""
_CHECKSUM_BYTES, _PIECE_BYTES = 56, 1 << 20
_CHECKSUM_HEAD = struct.pack(">I4s16s", _CHECKSUM_BYTES, b"free", b"DiffTalkerSHA256")
_MOST_XMP_BYTES = 1 << 20
_TYPE = re.compile(r'DigitalSourceType="([^"]*)"')
_JOB = re.compile(r'difftalker:job="([^"]*)"')


def aigc_text(maker: int, job: str) -> str:
    """The implicit label of GB 45438-2025, JSON: label 1 is content that is AI-generated."""
    return json.dumps(
        {
            "Label": "1",
            "ContentProducer": f"DiffTalker-{maker:06x}",
            "ProduceID": job[:32],
            "ReservedCode1": "",
            "ContentPropagator": "",
            "PropagateID": "",
            "ReservedCode2": "",
        }
    )


def add_xmp(path: Path, source_type: str, job: str) -> None:
    """Append XMP to a finished MP4 or QuickTime file; nothing in it moves.

    Raises:
        OSError: it cannot be written.
    """
    facts = (
        f"Iptc4xmpExt:DigitalSourceType={quoteattr(source_type)} difftalker:job={quoteattr(job)}"
    )
    packet = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f' xmlns:difftalker="urn:difftalker" {facts}/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()
    with path.open("ab") as file:
        file.write(struct.pack(">I4s16s", 24 + len(packet), b"uuid", XMP_BOX) + packet)


def read_xmp(path: Path) -> tuple[str, str] | None:
    """IPTC's digital source type and our job, as XMP states them; None where neither is stated.

    Raises:
        OSError: the file cannot be read.
    """
    for kind, begin, size in boxes(path):
        if kind != b"uuid" or not 24 <= size <= _MOST_XMP_BYTES:
            continue
        with path.open("rb") as file:
            file.seek(begin)
            box = file.read(size)
        if box[8:24] != XMP_BOX:
            continue
        text = box[24:].decode("utf-8", "replace")
        stated = [found[1] if (found := one.search(text)) else "" for one in (_TYPE, _JOB)]
        if any(stated):
            return stated[0], stated[1]
    return None


def add_checksum(path: Path) -> None:
    """Append the checksum of a finished and signed file; C2PA leaves ``free`` boxes out.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("r+b") as file:
        checksum = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(_CHECKSUM_HEAD + checksum)


def checksum_holds(path: Path) -> bool:
    """Whether a file ends with the checksum of all that is before it.

    Raises:
        OSError: it cannot be read.
    """
    total, left = hashlib.sha256(), max(0, path.stat().st_size - _CHECKSUM_BYTES)
    with path.open("rb") as file:
        while piece := file.read(min(left, _PIECE_BYTES)):
            total.update(piece)
            left -= len(piece)
        return file.read() == _CHECKSUM_HEAD + total.digest()


def is_mp4(path: Path) -> bool:
    """Whether a file begins as MP4 and QuickTime do, whatever its name."""
    with path.open("rb") as file:
        return file.read(8)[4:] == b"ftyp"


def boxes(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and size of the outermost boxes of an MP4 or QuickTime file."""
    end = path.stat().st_size
    begin = 0
    with path.open("rb") as file:
        while begin + 8 <= end:
            file.seek(begin)
            head = file.read(16)
            size, kind = struct.unpack(">I4s", head[:8])
            if size == 1 and len(head) == 16:
                size = struct.unpack(">Q", head[8:])[0]
            size = end - begin if size == 0 else size
            if size < 8 or begin + size > end or not kind.isascii():
                return
            yield kind, begin, size
            begin += size
