"""What a user gets who installs marketd: the wheel holds the SQL that the program runs."""

from __future__ import annotations

import zipfile
from importlib.resources import files
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths of all files in a freshly built wheel."""
    target = str(tmp_path_factory.mktemp("wheel"))
    [path] = WheelBuilder(str(ROOT)).build(directory=target, versions=["standard"])
    with zipfile.ZipFile(path) as wheel:
        return set(wheel.namelist())


def test_the_wheel_holds_every_sql_file(wheel_names: set[str]) -> None:
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sql").rglob("*.sql")}
    assert any(source.startswith("sql/migrations/") for source in sources)
    assert any(source.startswith("sql/queries/") for source in sources)
    assert {f"marketd/{source}" for source in sources} <= wheel_names


def test_the_wheel_holds_the_package_and_nothing_of_the_tests(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"marketd"}
    assert {"marketd/py.typed", "marketd/embedded/launch.py"} <= wheel_names


def test_the_wheel_holds_no_file_that_was_only_generated(wheel_names: set[str]) -> None:
    assert not [name for name in wheel_names if "__pycache__" in name or name.endswith(".pyc")]


def test_the_installed_package_finds_its_sql() -> None:
    sql = files("marketd") / "sql"
    assert (sql / "migrations").is_dir()
    assert (sql / "queries").is_dir()


def test_the_lock_names_no_registry_and_no_path() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert not [line for line in lines if "://" in line or line.startswith(("-", "/", "."))]


def test_the_lock_pins_and_hashes_every_package() -> None:
    blocks = (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines()
    packages = [line for line in blocks if line and not line.lstrip().startswith("#")]
    assert packages
    assert not [line for line in packages if "==" not in line or "--hash=sha256:" not in line]
