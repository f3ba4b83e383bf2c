"""Content credentials (C2PA): signed when a file is finished, and read again. No network is used.

They hold what was done (``c2pa.actions``) with the IPTC digital source type, the footage and the
sound as ingredients with the credentials that these carry, and who made it in which job. C2PA
leaves some bytes without meaning out of what it signs; a checksum of the whole file tells changes
of those (``metadata.add_checksum``).
"""

from __future__ import annotations

import errno
import json
import mimetypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftalker import __version__
from difftalker.errors import MediaError
from difftalker.marks import metadata, salts
from difftalker.marks.identity import Identity

if TYPE_CHECKING:
    import c2pa

SUFFIXES = (".mp4", ".m4v", ".mov")
"""Files that can carry credentials; Matroska has no place for them."""
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
COMPOSITE = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
GENERATED = SOURCE_TYPES + "trainedAlgorithmicMedia"
JOB = "org.difftalker.job"
"""The assertion that names the job."""
_SIGNS = (salts.C2PA_BOX, b"c2pa.claim")
"""Bytes of which one at least lies in every file with credentials."""
_PROGRAM = {"name": "DiffTalker", "version": __version__}
_SETTINGS: dict[str, Any] = {
    "verify": {"verify_after_sign": False, "ocsp_fetch": False, "remote_manifest_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """A file that a video was made of."""

    role: str
    """``footage`` or ``speech``."""
    path: Path
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Signed:
    """Content credentials that were read."""

    state: str
    """``trusted``, ``valid`` (intact, by a signer who is not known here) or ``invalid``."""
    failures: tuple[str, ...]
    """Codes of C2PA of what does not hold."""
    signer: str
    program: str
    source_type: str
    """IPTC's, the last part of its address; empty where none is stated."""
    job: Mapping[str, Any] | None
    """What this program states of the job; None for files of others."""
    ingredients: tuple[Mapping[str, Any], ...]
    """Their ``title`` and ``relationship``, and whether they have ``credentials``."""


def sign(
    source: Path,
    target: Path,
    who: Identity,
    *,
    source_type: str,
    job: Mapping[str, Any],
    ingredients: Sequence[Ingredient] = (),
) -> None:
    """Write ``target``, the finished file ``source`` with signed credentials.

    Raises:
        MediaError: it cannot be signed.
        OSError: there is no room for it.
    """
    import c2pa

    hashes = {f"{one.role}_sha256": one.sha256 for one in ingredients}
    definition = {
        "claim_generator_info": [_PROGRAM],
        "label": _urn(job["job"]),
        "instance_id": f"xmp:iid:{_uuid(job['job'])}",
        "title": "A video by DiffTalker",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": _actions(source_type, ingredients)}},
            {"label": JOB, "data": {**job, **hashes, "checksum": "sha256"}},
        ],
    }
    context = c2pa.Context.from_dict(_SETTINGS)
    try:
        builder = c2pa.Builder.from_json({**definition, **_unread(ingredients)}, context)
        for one in ingredients:
            if _format(one.path):
                _add(builder, one)
        kind = c2pa.C2paSigningAlg[who.algorithm.upper()]
        facts = c2pa.C2paSignerInfo(kind, who.chain.encode(), who.key.encode(), None)
        signer = c2pa.Signer.from_info(facts)
        builder.sign_file(source, target, signer)
        if who.algorithm == "Ed25519":
            salts.settle(target, job["job"], who.private)
        metadata.add_checksum(target)
    except c2pa.C2paError as error:
        target.unlink(missing_ok=True)
        # As the library's own code says it, or Python's that it calls back.
        if any(f"{word} {errno.ENOSPC}" in str(error) for word in ("os error", "Errno")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise MediaError(
            f"{source} cannot be signed: {error}",
            wanted="a key and certificates that C2PA accepts",
            fix="name others with --credentials, or leave that out",
        ) from error


def _uuid(key: str) -> str:
    """An identifier of a video, which depends on its job alone."""
    hexadecimal = f"{key[:12]}4{key[13:16]}8{key[17:32]}"
    cuts = (0, 8, 12, 16, 20, 32)
    return "-".join(hexadecimal[a:b] for a, b in pairwise(cuts))


def _urn(key: str) -> str:
    return f"urn:c2pa:{_uuid(key)}"


def _actions(source_type: str, ingredients: Sequence[Ingredient]) -> list[dict[str, Any]]:
    made = {"softwareAgent": _PROGRAM, "digitalSourceType": source_type}
    actions: list[dict[str, Any]] = []
    for one in ingredients:
        verb = "c2pa.opened" if one.role == "footage" else "c2pa.placed"
        actions.append({"action": verb, "parameters": {"ingredientIds": [one.role]}})
    if actions and actions[0]["action"] == "c2pa.opened":
        actions.append({"action": "c2pa.edited", **made})
    else:
        actions.insert(0, {"action": "c2pa.created", **made})
    return [*actions, {"action": "c2pa.watermarked.unbound", "softwareAgent": _PROGRAM}]


def _stated(one: Ingredient) -> dict[str, Any]:
    return {
        "title": one.role,
        "format": mimetypes.guess_type(one.path.name)[0] or "application/octet-stream",
        "relationship": "parentOf" if one.role == "footage" else "componentOf",
        "instance_id": f"xmp:iid:{_uuid(one.sha256)}",
        "label": one.role,
    }


def _unread(ingredients: Sequence[Ingredient]) -> dict[str, Any]:
    """Ingredients in formats that can carry no credentials."""
    return {"ingredients": [_stated(one) for one in ingredients if not _format(one.path)]}


def _format(path: Path) -> str | None:
    """The format by C2PA's name, where it may carry credentials that can be read."""
    import c2pa

    suffix = path.suffix.lower().lstrip(".")
    return suffix if suffix in c2pa.Reader.get_supported_mime_types() else None


def _add(builder: c2pa.Builder, one: Ingredient) -> None:
    """Add an ingredient with the credentials that it carries; a damaged one as it is named."""
    import c2pa

    kind = _format(one.path)
    assert kind is not None
    try:
        with one.path.open("rb") as file:
            builder.add_ingredient(_stated(one), kind, file)
    except c2pa.C2paError:
        # Nothing is read in a format that it does not know.
        with one.path.open("rb") as file:
            builder.add_ingredient(_stated(one), "application/octet-stream", file)


def read(path: Path, anchors: str) -> Signed | None:
    """The credentials of a file, checked; None where it carries none.

    ``anchors`` are certificates in PEM whose holders are trusted.
    """
    import c2pa

    settings = {**_SETTINGS, "trust": {"user_anchors": anchors} if anchors else {}}
    kind = "mp4" if metadata.is_mp4(path) else _format(path)
    if kind is None:
        return None
    try:
        context = c2pa.Context.from_dict(settings)
        with path.open("rb") as file, c2pa.Reader(kind, file, context=context) as reader:
            whole, state = json.loads(reader.json()), reader.get_validation_state()
        signed = _signed(whole, str(state).lower())
    except c2pa.C2paError.ManifestNotFound:
        return None
    except (c2pa.C2paError, KeyError) as error:
        # The library says so of every file that it cannot read, with credentials or without.
        return _damaged(error) if _carries(path) else None
    if signed.job and signed.job.get("checksum") and not metadata.checksum_holds(path):
        return replace(signed, state="invalid", failures=(*signed.failures, "checksum.mismatch"))
    return signed


def _carries(path: Path) -> bool:
    """Whether credentials, damaged ones too, lie anywhere in a file."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return any(content.find(sign) >= 0 for sign in _SIGNS)


def _damaged(error: Exception) -> Signed:
    """Credentials that cannot be read."""
    what = "manifest.missing" if isinstance(error, KeyError) else str(error).rstrip(".")
    empty: dict[str, Any] = dict.fromkeys(("signer", "program", "source_type"), "")
    return Signed(state="invalid", failures=(what,), job=None, ingredients=(), **empty)


def _signed(whole: Mapping[str, Any], state: str) -> Signed:
    manifest = whole["manifests"][whole["active_manifest"]]
    results = whole.get("validation_results", {}).get("activeManifest", {})
    codes = [one["code"] for one in results.get("failure", ())]
    unknown = "signingCredential.untrusted"
    data = {one["label"]: one["data"] for one in manifest.get("assertions", ())}
    actions = data.get("c2pa.actions.v2", data.get("c2pa.actions", {})).get("actions", ())
    types = [one["digitalSourceType"] for one in actions if "digitalSourceType" in one]
    program = (manifest.get("claim_generator_info") or [{}])[0]
    return Signed(
        state="invalid" if set(codes) - {unknown} else "valid" if unknown in codes else state,
        failures=tuple(code for code in codes if code != unknown),
        signer=(manifest.get("signature_info") or {}).get("common_name", ""),
        program=f"{program.get('name', '')} {program.get('version', '')}".strip(),
        source_type=types[-1].rpartition("/")[2] if types else "",
        job=data.get(JOB),
        ingredients=tuple(
            {
                "title": one.get("title", ""),
                "relationship": one.get("relationship", ""),
                "credentials": "active_manifest" in one,
            }
            for one in manifest.get("ingredients", ())
        ),
    )
