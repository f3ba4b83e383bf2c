"""``difftalker batch``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from difftalker.cli.common import COMMON, AtLeast1, Bars, Common, Outcome, say
from difftalker.core.text import printable

if TYPE_CHECKING:
    from difftalker.core.jobs import Event

_at_least_0 = validators.Number(gte=0)


def batch(
    jobs: str,
    /,
    *,
    output: Annotated[str, Parameter(name=("--output", "-o"))],
    shard: str = "0/1",
    retries: Annotated[int, Parameter(validator=_at_least_0)] = 0,
    ray: Annotated[str, Parameter(env_var="RAY_ADDRESS")] = "",
    workers: Annotated[int, Parameter(validator=_at_least_0)] = 0,
    threads: Annotated[int, Parameter(validator=_at_least_0)] = 0,
    part: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 8.0,
    avatars: AtLeast1 = 4,
    options: Common = COMMON,
) -> Outcome:
    """Carry out many jobs: each line of a file is one, and one that is done is not done again.

    A job that fails is a line of results.jsonl with its reason, and the rest goes on. The same
    command goes on where it was stopped, and tries what had failed again.

    Args:
        jobs: A file with a job a line, JSON. It, the output and all that jobs read may be paths of
            this machine, or of a store: s3://bucket/name.
        output: The folder for the results; each is named by the content of its job.
        shard: i/n: this part of the jobs alone, of n, counted from 0.
        retries: Times that a failed job is tried again.
        ray: Run on a Ray cluster: its address, auto for the one of this machine, or local to start
            one here.
        workers: Workers on Ray; by default one a GPU, or where there is none, a core.
        threads: Threads of the CPU for each job; 0 for all, on Ray for one.
        part: Length of the parts that long videos are painted in on Ray, seconds.
        avatars: Avatars that a worker keeps loaded.
        options: Those that commands share.
    """
    from difftalker.batch.lines import parse_shard
    from difftalker.batch.options import BatchOptions
    from difftalker.batch.run import run_batch
    from difftalker.core.allocator import steady

    chosen = BatchOptions(
        shard=parse_shard(shard),
        retries=retries,
        avatars=avatars,
        ray=ray,
        workers=workers,
        threads=threads,
        part_s=part,
    )
    steady()
    with Bars("job") as bars:

        def show(event: Event) -> None:
            if event.stage == "batch":
                bars.event(event)

        summary = run_batch(jobs, output, chosen, show)
    for one in summary.failed:
        say(f"difftalker: line {one['line']}: {one['error']['message']}")
    counts = {k: v for k, v in asdict(summary).items() if k != "failed"}
    text = (
        f"{printable(output)}: {summary.done} of {summary.jobs} jobs done now, "
        f"{summary.done_before} before, {len(summary.failed)} failed"
    )
    if summary.elsewhere:
        text += f"; another process is at {summary.elsewhere}"
    return Outcome({**counts, "failed": summary.failed}, text, exit_code=int(bool(summary.failed)))
