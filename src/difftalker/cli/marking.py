"""Options of the commands that make a video of a face: how it says that it is generated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from difftalker.cli.common import text_of

if TYPE_CHECKING:
    from difftalker.marks.marking import Marks


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Marking:
    """Options of every command that makes a video of a face: how it says that it is generated."""

    no_marks: Annotated[
        str,
        Parameter(
            show_default=False,
            help="Leave the marks out, for this reason: it stands in the log and in the file.",
        ),
    ] = ""
    aigc: Annotated[
        bool,
        Parameter(negative="", show_default=False),
        Parameter(help="Add the label of GB 45438, in the metadata and to be seen for 3 s."),
    ] = False
    credentials: Annotated[
        Path | None,
        Parameter(help="A folder with key.pem and chain.pem to sign with; by default your own."),
    ] = None

    @property
    def marks(self) -> Marks:
        """The same as ``marks.marking`` has it."""
        from difftalker.marks.marking import Marks

        return Marks(off=self.no_marks, aigc=self.aigc, credentials=text_of(self.credentials))


MARKING = Marking()
"""All of them as they are when left out."""
