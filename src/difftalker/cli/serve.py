"""``difftalker serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from difftalker.cli.common import COMPUTE, GUARDS, AtLeast1, Compute, Guards, List, Outcome

AboveZero = Annotated[float, Parameter(validator=validators.Number(gt=0))]
Flag = Parameter(negative="", show_default=False)


def serve(
    *,
    folder: Path = Path("difftalker-server"),
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))] = 8765,
    new_token: str | None = None,
    revoke_tokens: str | None = None,
    allow_host: Annotated[tuple[str, ...], List] = (),
    allow_origin: Annotated[tuple[str, ...], List] = (),
    avatar: Annotated[tuple[Path, ...], List, Parameter(name=("--avatar", "-a"))] = (),
    jobs: AtLeast1 = 1,
    job_hours: AboveZero = 48.0,
    queued: AtLeast1 = 100,
    upload_gb: AboveZero = 4.0,
    stored_gb: AboveZero = 50.0,
    free_gb: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 2.0,
    live_sessions: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 1,
    live_minutes: AboveZero = 60.0,
    voice: str | None = None,
    private_webhooks: Annotated[bool, Flag] = False,
    guards: Guards = GUARDS,
    options: Compute = COMPUTE,
) -> Outcome:
    """Serve a studio for the browser, and an API for programs, until Ctrl-C.

    Without tokens everything belongs to one local user, and only programs on this machine are
    answered. As soon as there is a token, everybody needs one.

    Args:
        folder: Where uploads, results, trained avatars and the server's state lie.
        host: The address to listen on; one that other machines reach needs a token.
        port: The port; 0 takes a free one.
        new_token: Make a token for a user of this name, print it, and end.
        revoke_tokens: Make all tokens of this user worthless, and end.
        allow_host: Another name by which clients call the server. May be given several times.
        allow_origin: Another site whose pages may call it, such as https://studio.example. May be
            given several times.
        avatar: An avatar's folder that all users may use. May be given several times.
        jobs: How many jobs compute at a time.
        job_hours: A job that takes longer is ended.
        queued: Most jobs of one user that wait or run at a time.
        upload_gb: The largest upload, 10^9 bytes.
        stored_gb: What one user's uploads may take, 10^9 bytes.
        free_gb: What uploads leave free on the disk, 10^9 bytes.
        live_sessions: Most live sessions at a time.
        live_minutes: A live session that takes longer is ended.
        voice: Text to speech: hibari (needs the package hibari-tts), or the address of an
            OpenAI-compatible service, whose key is in DIFFTALKER_VOICE_KEY. Off by default.
        private_webhooks: Let webhooks go to private addresses, too.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    import os

    from difftalker.errors import UsageError

    try:
        from difftalker.server import run
        from difftalker.server.settings import Settings
    except ModuleNotFoundError as error:
        raise UsageError(
            f"serving needs the package {error.name}",
            fix="install it: `pip install 'difftalker[server]'`",
        ) from error
    settings = Settings(
        folder=folder,
        host=host,
        port=port,
        hosts=allow_host,
        origins=allow_origin,
        avatars=avatar,
        upload_gb=upload_gb,
        stored_gb=stored_gb,
        free_gb=free_gb,
        queued=queued,
        jobs=jobs,
        job_hours=job_hours,
        live_sessions=live_sessions,
        live_minutes=live_minutes,
        private_webhooks=private_webhooks,
        voice=voice or "",
        voice_key=os.environ.get("DIFFTALKER_VOICE_KEY", ""),
        device=options.device,
        threads=options.threads,
        limits=guards.limits,
    )
    if new_token is not None:
        token = run.new_token(settings, new_token)
        return Outcome({"user": new_token, "token": token}, token)
    if revoke_tokens is not None:
        count = run.revoke_tokens(settings, revoke_tokens)
        return Outcome({"user": revoke_tokens, "revoked": count}, f"{count} revoked")
    run.run_server(settings)
    return Outcome({"folder": folder}, "stopped")
