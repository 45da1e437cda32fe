"""What the embedded server raises."""

from __future__ import annotations

from marketd.errors import DatabaseUnavailable


class EmbeddedError(DatabaseUnavailable):
    """The embedded Postgres cannot be used; the message says why and what to do about it."""
