"""What an error of a connection may tell of its address."""

from __future__ import annotations

import pytest

from marketd.store.addresses import address_of


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("postgresql://ann:s3cret@db.example/market", "db.example:5432 (database market, user ann)"),
        ("postgres://ann:s%2F3@[::1]:6543/m?sslmode=require", "[::1]:6543 (database m, user ann)"),
        ("postgresql://ann@[fe80::1]/m", "[fe80::1]:5432 (database m, user ann)"),
        ("postgresql://ann:x@a:1,b/market", "a:1,b:5432 (database market, user ann)"),
        ("postgresql://ann:p@ss@db/market", "db:5432 (database market, user ann)"),
        ("postgresql:///market?host=/run/pg&port=5433&user=bob", "/run/pg:5433 (database market, user bob)"),
        ("postgresql://ann@/?host=/run/pg", "/run/pg:5432 (database ann, user ann)"),
        ("postgresql://", "pg.example:5555 (database d, user u)"),
    ],
)
def test_it_names_host_port_database_and_user(dsn: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "ann" not in dsn and "bob" not in dsn:
        for name, value in (("HOST", "pg.example"), ("PORT", "5555"), ("USER", "u"), ("DATABASE", "d")):
            monkeypatch.setenv(f"PG{name}", value)
    assert str(address_of(dsn)) == told


@pytest.mark.parametrize(
    "dsn", ["postgresql://ann:12/34@db/m", "postgresql://ann:1?34@db/m", "postgresql://ann:1#34@db/m"]
)
def test_where_a_password_may_have_slipped_into_another_part_nothing_is_shown(dsn: str) -> None:
    told = str(address_of(dsn))
    assert "34" not in told
    assert "percent-encoded" in told
