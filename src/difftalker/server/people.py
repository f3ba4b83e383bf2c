"""The avatars that a user of the server may use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from difftalker.core.text import printable
from difftalker.errors import AvatarError
from difftalker.server.bodies import AvatarCard, AvatarView
from difftalker.server.places import Places
from difftalker.server.problems import missing
from difftalker.server.store import Store
from difftalker.store import avatars

Origin = Literal["packaged", "offered", "trained"]
UNSTATED = "not stated"


@dataclass(frozen=True, kw_only=True)
class Known:
    """One avatar by the name that clients use."""

    id: str
    folder: Path
    origin: Origin


class People:
    """Packaged avatars, those that the server was started with, and a user's own."""

    def __init__(self, offered: tuple[Path, ...], places: Places, store: Store) -> None:
        """Raise AvatarError where an offered folder is no avatar, or has a taken name."""
        self._places, self._store = places, store
        self._shared = {
            name: Known(id=name, folder=avatars.PACKAGED / name, origin="packaged")
            for name in avatars.packaged()
        }
        for folder in offered:
            name = re.sub(r"[^a-z0-9-]+", "-", folder.resolve().name.lower()).strip("-")[:60]
            avatars.read(folder)
            if not name or name in self._shared:
                raise AvatarError(
                    f"two avatars are called {name!r}", fix="give one of the folders another name"
                )
            self._shared[name] = Known(id=name, folder=folder.absolute(), origin="offered")
        self._seen: dict[tuple[str, int], AvatarCard] = {}

    def all(self, user: str) -> list[Known]:
        """All that a user may use."""
        own = (
            Known(id=name, folder=self._places.avatar(name), origin="trained")
            for name in self._store.avatars(user)
        )
        return [*own, *self._shared.values()]

    def find(self, user: str, name: str) -> Known:
        """One of them.

        Raises:
            Problem: there is none of this name.
        """
        for known in self.all(user):
            if known.id == name:
                return known
        raise missing("avatar", name)

    def card(self, known: Known) -> AvatarCard:
        """What is known of an avatar, with its card.

        Raises:
            AvatarError: the folder is damaged.
        """
        key = str(known.folder), (known.folder / "config.json").stat().st_mtime_ns
        if key not in self._seen:
            files = avatars.read(known.folder)
            facts = files.facts
            self._seen[key] = AvatarCard(
                id=known.id,
                name=files.name,
                consent=printable(facts.get("consent") or UNSTATED),
                source=printable(facts.get("source") or UNSTATED),
                origin=known.origin,
                live="live" in files.parts and "light" in files.parts,
                fast="light" in files.parts,
                card=(known.folder / "card.md").read_text(encoding="utf-8"),
                facts=facts,
            )
        return self._seen[key]

    def view(self, known: Known) -> AvatarView:
        """The same without the card."""
        return AvatarView(**self.card(known).model_dump(exclude={"card", "facts"}))
