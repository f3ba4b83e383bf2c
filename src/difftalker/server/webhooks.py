"""Webhooks: a signed call when a job has ended, as https://www.standardwebhooks.com has it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import ipaddress
import json
import logging
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx2

from difftalker.server.problems import Problem, refusal
from difftalker.server.store import Call, Store

logger = logging.getLogger(__name__)

TRIES = 8
"""Calls of one webhook before it is given up."""
FIRST_WAIT_S = 5.0
"""Until the second call; each further one waits three times as long."""
_TIMEOUT_S = 10.0
_LOOK_S = 1.0


class Webhooks:
    """Calls what is to be called."""

    def __init__(self, store: Store, body: Callable[[str], str | None], *, private: bool) -> None:
        """``body`` gives a job's JSON, None where it is gone; ``private`` allows any address."""
        self._store, self._body, self._private = store, body, private
        self.failures = 0

    async def run(self) -> None:
        """Call for as long as the server lives."""
        while True:
            for call in self._store.calls():
                if call.due <= time.time():
                    await self._call(call)
            await asyncio.sleep(_LOOK_S)

    async def _call(self, call: Call) -> None:
        body = self._body(call.job)
        if body is None:
            self._store.drop_call(call)
            return
        try:
            await post(call, body, self._store.secret_of(call.user), private=self._private)
        except (httpx2.HTTPError, OSError, Problem, ValueError) as error:
            self.failures += 1
            logger.warning("the webhook of the job %s failed: %s", call.job, error)
            if call.tries + 1 >= TRIES:
                self._store.drop_call(call)
            else:
                self._store.put_off(call, time.time() + FIRST_WAIT_S * 3**call.tries)
            return
        self._store.drop_call(call)


async def post(call: Call, body: str, secret: bytes, *, private: bool) -> None:
    """Call a webhook at the very address that was checked; redirects are not followed.

    Raises:
        Problem: the address is a private one.
        OSError, httpx2.HTTPError: it does not answer, or not with a 2xx.
    """
    address = await check_address(call.url, private=private)
    parts = urlsplit(call.url)
    host = parts.hostname or ""
    numeric = f"[{address}]" if ":" in address else address
    port = f":{parts.port}" if parts.port else ""
    url = parts._replace(netloc=f"{numeric}{port}").geturl()
    headers = {"host": parts.netloc.rpartition("@")[2], "content-type": "application/json"}
    headers |= signed(call.id, int(time.time()), body, secret)
    async with httpx2.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client:
        answer = await client.post(
            url, content=body, headers=headers, extensions={"sni_hostname": host}
        )
        answer.raise_for_status()
        if answer.is_redirect:
            raise OSError("it redirects")


def signed(name: str, moment: int, body: str, secret: bytes) -> dict[str, str]:
    """The headers that prove where a call comes from."""
    digest = hmac.digest(secret, f"{name}.{moment}.{body}".encode(), "sha256")
    return {
        "webhook-id": name,
        "webhook-timestamp": str(moment),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def written(secret: bytes) -> str:
    """A secret as the standard writes it."""
    return f"whsec_{base64.b64encode(secret).decode()}"


async def check_address(url: str, *, private: bool) -> str:
    """The numeric address of a URL.

    Raises:
        Problem: it is one of a private network, and these are not allowed.
        OSError: the name is not known.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [str(one[4][0]) for one in found]
    for address in addresses:
        if not private and not is_public(address):
            raise refusal(
                422,
                f"the webhook's address {address} is a private one",
                wanted="a public address",
                fix="start the server with --private-webhooks to allow it",
            )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is out in the internet; those within others count as what they carry."""
    one = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(one, ipaddress.IPv6Address):
        inner = one.ipv4_mapped or one.sixtofour or (one.teredo[1] if one.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if one in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(str(ipaddress.IPv4Address(int(one) & 0xFFFFFFFF)))
    return one.is_global and not one.is_multicast


def text_of(view: dict[str, object]) -> str:
    """A job's view as the body of a call."""
    return json.dumps({"type": f"job.{view['state']}", "data": view}, separators=(",", ":"))
