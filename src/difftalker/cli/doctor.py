"""``difftalker doctor``."""

from __future__ import annotations

from difftalker.cli.common import COMMON, Common, Outcome


def doctor(*, options: Common = COMMON) -> Outcome:
    """Look at what works on this machine, and say how to mend what does not."""
    from difftalker.doctor import Check, examine

    def line(check: Check) -> str:
        mark = "ok" if check.ok else "MISSING" if check.needed else "-"
        return f"{mark:<8} {check.name:<24} {check.found}" + (check.fix and f"; {check.fix}")

    checks = examine()
    ok = all(check.ok for check in checks if check.needed)
    record = {"ok": ok, "checks": checks, "seed": options.seed}
    return Outcome(record, "\n".join(map(line, checks)), exit_code=0 if ok else 1)
