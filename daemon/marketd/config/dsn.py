"""Addresses of Postgres: what would be refused only when somebody connects is told with the file's line.

No message shows a part of an address that may be secret: neither user, password, host nor database.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from marketd.config.base import fault

_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_DEFAULT_ROOT = Path("~/.postgresql/root.crt")  #: where libpq and asyncpg look, too


def postgres_url(value: SecretStr | None) -> SecretStr | None:
    """A Postgres URL, as asyncpg reads it."""
    if value is None:
        return None
    try:
        parts = urlsplit(value.get_secret_value())
        _ = parts.port
    except ValueError:
        raise fault(
            "expected postgresql://user:password@host:port/database (special characters percent-encoded)"
        ) from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise fault("expected an address that starts with postgresql://")
    _check_tls({name: values[-1] for name, values in parse_qs(parts.query).items()})
    return value


def _check_tls(options: Mapping[str, str]) -> None:
    mode = options.get("sslmode")
    if mode is not None and mode not in _MODES:
        raise fault(f"sslmode is none of {', '.join(_MODES)}")
    for name in _FILES:
        if name in options and not os.access(options[name], os.R_OK):
            raise fault(f"{name}: there is no file {options[name]} that this user may read")
    named = "sslrootcert" in options or os.environ.get("PGSSLROOTCERT")
    if mode in ("verify-ca", "verify-full") and not named and not _DEFAULT_ROOT.expanduser().exists():
        raise fault(f"sslmode={mode} wants sslrootcert=FILE, the certificate of whoever signed the server's")
