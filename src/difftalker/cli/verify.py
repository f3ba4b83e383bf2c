"""``difftalker verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from difftalker.cli.common import COMMON, GUARDS, Common, Guards, Outcome
from difftalker.core.text import printable


def verify(
    file: Path,
    /,
    *,
    trust: Path | None = None,
    seconds: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 120.0,
    guards: Guards = GUARDS,
    options: Common = COMMON,
) -> Outcome:
    """Say whether a video was generated, by whom, and whether it was altered since.

    Reads content credentials, metadata and the invisible watermark. The exit code is 0 where
    credentials hold, 3 where something was altered, 4 where there is the watermark alone, 5 where
    metadata alone says so, 6 where there is no mark, and 1 where the file cannot be read.

    Args:
        file: A video.
        trust: Certificates of signers to trust beside yourself (.pem).
        seconds: How much of the video is searched for the watermark.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    from difftalker.marks.verify import verify as look

    found = look(file, trust=trust, seconds=seconds)
    lines = [f"{printable(file)}: {found.verdict}. {found.text}"]
    if found.made_here:
        lines.append("It was made with your key.")
    if mark := found.watermark:
        lines.append(
            f"Watermark: maker {mark.maker}, job {mark.job}, in {mark.start_s:g} to"
            f" {mark.stop_s:g} s; unmarked pictures look so with a chance of {mark.chance:.0e} at"
            " most."
        )
    return Outcome(found.record(), "\n".join(lines), found.exit_code)
