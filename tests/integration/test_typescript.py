"""The TypeScript of the guide: it type-checks, and what it asks of PostgREST is there for a signed-in user."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from pathlib import Path

import asyncpg
import pytest

from marketd.migrate import apply_roles

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "INTEGRATION.md"
ARGUMENTS = ("provider", "sku", "size", "priority")
#: only so much of the library as the guide touches; the library itself is not installed here
LIBRARY = """
declare module "@supabase/supabase-js" {
  type Answer<T> = Promise<{ data: T; error: { message: string; code: string } | null }>;
  interface Query {
    select(columns: string): Query;
    match(by: Record<string, string>): Query;
    maybeSingle(): Answer<any>;
  }
  interface Client { rpc(name: string, named: Record<string, unknown>): Answer<any>; from(table: string): Query; }
  export function createClient(url: string, key: string): Client;
}
declare const process: { env: Record<string, string | undefined> };
"""


def _block() -> str:
    [block] = re.findall(r"^```ts\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.mark.skipif(shutil.which("tsc") is None, reason="tsc is not installed (Debian: node-typescript)")
def test_it_type_checks(tmp_path: Path) -> None:
    (tmp_path / "guide.ts").write_text(_block())
    (tmp_path / "library.d.ts").write_text(LIBRARY)
    done = subprocess.run(
        ["tsc", "--noEmit", "--strict", "--target", "es2020", "--moduleResolution", "node", "guide.ts", "library.d.ts"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_a_signed_in_user_may_call_and_read_what_it_names(
    db: asyncpg.Connection, database: str
) -> None:
    await apply_roles(database)
    block = _block()
    (function, arguments), (asking_why, by) = re.findall(r'\.rpc\("(\w+)", \{(.*?)\}\)', block, re.DOTALL)
    assert re.findall(r"([a-z_]+)(?=[:,])", arguments.replace('"stockx"', "")) == list(ARGUMENTS)
    [(view, columns)] = re.findall(r'\.from\("(\w+)"\)\s*\.select\("([^"]+)"\)', block)
    answer, reason = re.findall(r"as \{(.*?)\};", block)
    assert re.findall(r"\.match\(\{ (.*?) \}\)", block) == ['provider: "stockx", sku, size, currency']
    call = ", ".join(f"{name} => ${number}" for number, name in enumerate(ARGUMENTS, 1))  # as PostgREST calls
    signed_in = f"signed_in_{secrets.token_hex(4)}"  # Supabase's `authenticated`
    whole = db.transaction()
    await whole.start()
    try:
        await db.execute(f"create role {signed_in}; grant market_producer, market_reader to {signed_in}")
        await db.execute(f"set local role {signed_in}")
        await db.execute("select set_config('request.jwt.claims', $1, true)", json.dumps({"sub": "ann"}))
        row = await db.fetchrow(f"select * from {function}({call})", "stockx", "DD1391-100", "10", 200)
        assert row is not None
        assert set(re.findall(r"(\w+):", answer)) == set(row.keys())
        why = await db.fetchrow(f"select * from {asking_why}({by.strip()} => $1)", row["job_id"])
        assert why is not None
        assert set(re.findall(r"(\w+):", reason)) == set(why.keys())
        assert why["state"] == "pending"
        price = await db.fetchrow(
            f"select {columns} from {view} where provider = 'stockx' and sku = 'DD1391-100' and size = '10'"
            " and currency = 'GBP'"
        )
        assert price is not None
        assert price["state"] == "queued"
        await db.execute("reset role")
        assert await db.fetchval("select user_id from market_job_requests") == "ann"
    finally:
        await whole.rollback()
