"""TLS to Postgres as its DSN asks for it: by a server whose certificate a CA of this test's own has signed, or not."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from faults.kit import QUICK_JOBS, Connection, ask, ended, load
from faults.proxy import Proxy
from harness import Daemon, settings, until
from marketd.errors import DatabaseUnavailable
from marketd.sandbox import Sandbox
from marketd.store.pool import Database

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed: it makes the certificates")
#: what a client sends that would like TLS, and what it is answered
SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


@dataclass(frozen=True)
class Certificates:
    """Files of one CA and of what it signed; `stranger` is a CA that signed nothing here."""

    ca: Path
    stranger: Path
    server: Path
    key: Path
    expired: Path


def _openssl(*words: str | Path) -> None:
    assert OPENSSL is not None
    subprocess.run([OPENSSL, *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    made = Certificates(
        *(folder / name for name in ("ca.pem", "stranger.pem", "server.pem", "server.key", "old.pem"))
    )
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for authority in (made.ca, made.stranger):
        _openssl(
            "req", "-x509", *new_key, "-keyout", authority.with_suffix(".key"), "-out", authority, "-days", "2",
            "-subj", f"/CN={authority.stem} of a test",
        )  # fmt: skip
    request, names = folder / "server.csr", folder / "names"
    names.write_text("subjectAltName=DNS:localhost\n")
    _openssl("req", *new_key, "-keyout", made.key, "-out", request, "-subj", "/CN=postgres of a test")
    for signed, days in ((made.server, "2"), (made.expired, "0")):
        _openssl(
            "x509", "-req", "-in", request, "-CA", made.ca, "-CAkey", made.ca.with_suffix(".key"), "-CAcreateserial",
            "-days", days, "-extfile", names, "-out", signed,
        )  # fmt: skip
    return made


class Front:
    """Speaks TLS as Postgres does, and hands all on to a Postgres that does not. `speaks_tls` false: refuses to."""

    def __init__(self, proxy: Proxy, certificate: Path, key: Path, *, speaks_tls: bool = True) -> None:
        self._upstream = urlsplit(proxy.dsn)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._speaks_tls = speaks_tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.encrypted = 0  #: connections whose handshake went well
        self.plain = 0  #: and those that asked for no TLS at all

    async def __aenter__(self) -> Front:
        self._server = await asyncio.start_server(self._accept, "localhost", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def dsn(self, options: str, *, host: str = "localhost") -> str:
        port = self._server.sockets[0].getsockname()[1]
        return f"postgresql://{self._upstream.username}@{host}:{port}{self._upstream.path}?{options}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            first = await reader.readexactly(8)
            if first == SSL_REQUEST:
                writer.write(b"S" if self._speaks_tls else b"N")
                await writer.drain()
                if not self._speaks_tls:
                    return
                await writer.start_tls(self._context)
                self.encrypted += 1
                first = b""
            else:
                self.plain += 1
            up_reader, up = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
            up.write(first)
            await _first_to_end(_pump(reader, up), _pump(up_reader, writer))
            up.transport.abort()
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            return  # a client that does not trust us hangs up
        finally:
            writer.transport.abort()


async def _first_to_end(*ways: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@pytest.fixture
async def front(proxy: Proxy, certificates: Certificates) -> AsyncIterator[Front]:
    async with Front(proxy, certificates.server, certificates.key) as front:
        yield front


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, products=10, limits={"*": None}) as server:
        yield server


async def test_a_daemon_whose_dsn_says_verify_full_works_and_sends_nothing_in_the_clear(
    db: Connection, front: Front, certificates: Certificates, sandbox: Sandbox, tmp_path: Path
) -> None:
    dsn = front.dsn(f"sslmode=verify-full&sslrootcert={certificates.ca}")
    daemon = Daemon(tmp_path, settings(dsn, sandbox, tmp_path / "state", jobs=QUICK_JOBS))
    await daemon.start()
    try:
        job = await ask(db, "stockx", load(sandbox, 1)[0]["sku"], None)
        assert (await ended(db, [job]))[job]["status"] == "done"
        heard = lambda: asyncio.sleep(0, '"event": "listener_connected"' in daemon.text())  # noqa: E731
        await until(heard, what="the listener, by TLS as well")
    finally:
        assert await daemon.stop() == 0
    assert front.encrypted >= 2
    assert front.plain == 0


async def _run(folder: Path, dsn: str, sandbox: Sandbox, *command: str) -> tuple[int, str]:
    """Exit code and all that `marketd COMMAND` says."""
    daemon = Daemon(folder, settings(dsn, sandbox, folder / "state"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "marketd", "--config", str(daemon.config), *command,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.parametrize("command", ["run", "migrate", "status"])
async def test_a_certificate_of_another_authority_is_refused_in_one_clear_line(
    front: Front, certificates: Certificates, sandbox: Sandbox, tmp_path: Path, command: str
) -> None:
    dsn = front.dsn(f"sslmode=verify-full&sslrootcert={certificates.stranger}")
    code, said = await _run(tmp_path, dsn, sandbox, command)
    assert code == 75
    assert "certificate is refused" in said
    assert "check sslrootcert" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1, said
    assert front.encrypted == 0


async def _connects(dsn: str) -> None:
    pool = Database(dsn, size=1, timeout_s=5)
    await pool.open()
    try:
        assert await pool.fetchval("select 1") == 1
    finally:
        await pool.close()


async def test_another_name_than_the_certificates_is_refused_by_verify_full_and_taken_by_verify_ca(
    front: Front, certificates: Certificates
) -> None:
    root = f"sslrootcert={certificates.ca}"
    await _connects(front.dsn(f"sslmode=verify-ca&{root}", host="127.0.0.1"))
    with pytest.raises(DatabaseUnavailable, match=r"certificate is refused.*127\.0\.0\.1"):
        await _connects(front.dsn(f"sslmode=verify-full&{root}", host="127.0.0.1"))


async def test_a_certificate_whose_time_is_over_is_refused(proxy: Proxy, certificates: Certificates) -> None:
    async with Front(proxy, certificates.expired, certificates.key) as front:
        with pytest.raises(DatabaseUnavailable, match="certificate has expired"):
            await _connects(front.dsn(f"sslmode=verify-full&sslrootcert={certificates.ca}"))


async def test_a_server_without_tls_is_refused_by_require_and_never_sent_a_login(
    proxy: Proxy, certificates: Certificates
) -> None:
    async with Front(proxy, certificates.server, certificates.key, speaks_tls=False) as front:
        with pytest.raises(DatabaseUnavailable, match="rejected SSL upgrade"):
            await _connects(front.dsn("sslmode=require"))
        assert front.plain == 0


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        (
            "run",
            "sslmode=verify",
            "sslmode is none of disable, allow, prefer, require, verify-ca, verify-full",
        ),
        (
            "run",
            "sslmode=verify-full&sslrootcert=/no/such/ca.pem",
            "sslrootcert: there is no file /no/such/ca.pem",
        ),
        ("check-config", "sslcert=/no/such/client.pem", "sslcert: there is no file /no/such/client.pem"),
        ("check-config", "sslmode=verify-full", "sslmode=verify-full wants sslrootcert=FILE"),
    ],
)
async def test_tls_options_that_cannot_work_are_told_with_their_key_before_anything_starts(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, options: str, words: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where no root.crt is
    secret = "Pw-of-a-test"
    code, said = await _run(tmp_path, f"postgresql://u:{secret}@127.0.0.1:1/x?{options}", sandbox, command)
    assert code == 78
    assert f"database.dsn: {words}" in said
    assert secret not in json.dumps(said)
    assert "Traceback" not in said
