"""Requests that schemathesis makes from a server's description, and which of them went wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast


@dataclass(kw_only=True)
class Fuzzed:
    """What came of it."""

    requests: int = 0
    failures: list[str] = field(default_factory=list)
    """Requests that were answered with 5xx, or not at all."""
    statuses: dict[int, int] = field(default_factory=dict)


def fuzz(
    client: Any,
    description: dict[str, Any],
    *,
    examples: int,
    seed: int = 0,
    into: Fuzzed | None = None,
) -> Fuzzed:
    """Send so many requests, at most, for each operation of the description.

    ``client`` is an httpx2 client, or a test client of an application. What came of earlier
    requests, ``into``, is added to.
    """
    import hypothesis
    import schemathesis

    outcome = into or Fuzzed()
    schema = schemathesis.openapi.from_dict(description)
    for result in schema.get_all_operations():
        operation = cast(Any, result).ok()  # the description is ours, and valid

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy())
        def send(case: Any) -> None:
            _send(client, case, outcome)

        send()
    return outcome


def _send(client: Any, case: Any, outcome: Fuzzed) -> None:
    made = case.as_transport_kwargs(base_url=str(client.base_url).rstrip("/"))
    body = {"json": made["json"]} if "json" in made else {"content": _bytes(made.get("data"))}
    text = f"{made['method']} {made['url']} {made.get('params')} {str(body)[:300]}"
    outcome.requests += 1
    headers = {key: value for key, value in (made.get("headers") or {}).items() if value}
    # A connection of its own: one that is kept may be closed just when it is used again.
    headers["connection"] = "close"
    try:
        answer = client.request(
            made["method"], made["url"], params=made.get("params"), headers=headers, **body
        )
    except UnicodeEncodeError:  # a header that no client can send
        outcome.requests -= 1
        return
    except Exception as error:
        outcome.failures.append(f"{type(error).__name__} {error}: {text}")
        return
    status = answer.status_code
    outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
    if status >= 500 and status != 507 and "/readyz" not in text:
        outcome.failures.append(f"{status}: {text}")


def _bytes(data: Any) -> bytes | None:
    if data is None or isinstance(data, bytes):
        return data
    return str(data).encode("utf-8", "surrogatepass")
