"""Postgres as a child process, for the demo and the tests; never for production (trust, no TLS, one host)."""

from marketd.embedded.binaries import pg_bin
from marketd.embedded.cluster import DATABASE
from marketd.embedded.errors import EmbeddedError
from marketd.embedded.server import TEST_SETTINGS, EmbeddedPostgres

__all__ = ["DATABASE", "TEST_SETTINGS", "EmbeddedError", "EmbeddedPostgres", "pg_bin"]
