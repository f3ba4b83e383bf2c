"""The one error a user sees: what was found, what was wanted and what to do."""

from __future__ import annotations


class DiffTalkerError(Exception):
    """A failure that the user can mend; shown as one line, never as a trace."""

    exit_code: int = 1

    def __init__(self, found: str, *, wanted: str = "", fix: str = "") -> None:
        """``found`` says what is wrong, ``wanted`` what was expected, ``fix`` what to do."""
        self.found, self.wanted, self.fix = found, wanted, fix
        parts = [found, wanted and f"wanted {wanted}", fix]
        super().__init__("; ".join(" ".join(part.split()) for part in parts if part))


class UsageError(DiffTalkerError):
    """Wrong use: an unknown option, preset or configuration key."""

    exit_code = 2


class MediaError(DiffTalkerError):
    """A media file that cannot be read or written as asked."""


class FaceError(DiffTalkerError):
    """Footage in which no face could be tracked."""


class TrackError(DiffTalkerError):
    """A landmark track that is damaged, or belongs to other footage."""


class AssetError(DiffTalkerError):
    """Third-party weights that could not be fetched or verified."""


class AvatarError(DiffTalkerError):
    """An avatar folder that is missing, incomplete or altered."""


class TrainingError(DiffTalkerError):
    """A training run that cannot start or go on."""


class Cancelled(DiffTalkerError):
    """A job that was cancelled; what it finished is kept, and the same job goes on from there."""

    exit_code = 130
