"""The judges that there are.

To add one: write its class in a module of its own, with what it needs in ``JudgeOptions`` (and in
``difftalker evaluate``), and name it in ``JUDGES``.
"""

from __future__ import annotations

from collections.abc import Callable

from difftalker.evaluation.judges.base import Judge, JudgeOptions
from difftalker.evaluation.judges.closure import ClosureJudge
from difftalker.evaluation.judges.lipreading import LipJudge
from difftalker.evaluation.judges.perceptual import PerceptualJudge
from difftalker.evaluation.judges.sync import OfficialSyncJudge, SyncJudge

JUDGES: tuple[Callable[[JudgeOptions], Judge | None], ...] = (
    SyncJudge.opened,
    OfficialSyncJudge.opened,
    PerceptualJudge.opened,
    LipJudge.opened,
    ClosureJudge.opened,
)
"""Each gives a judge, or None where its files were not given or are not packaged."""


def open_judges(options: JudgeOptions) -> tuple[Judge, ...]:
    """All judges that can be had: the packaged experts, and those whose files were given.

    Raises:
        DiffTalkerError: a file that was given cannot be used.
    """
    opened = (opener(options) for opener in JUDGES)
    return tuple(judge for judge in opened if judge is not None)
