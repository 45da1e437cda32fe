"""Makes a database cluster, whole or not at all, and checks one that is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from marketd.embedded import binaries, identity
from marketd.embedded.errors import EmbeddedError

DATABASE = "marketd"
USER = "marketd"


def check_version(cluster: Path, major: int) -> None:
    """Raises `EmbeddedError` when these programs cannot read the cluster; nothing is ever upgraded here."""
    made_by = (cluster / "PG_VERSION").read_text().strip()
    if made_by != str(major):
        raise EmbeddedError(
            f"{cluster} was made by Postgres {made_by}, but the programs found are {major}: "
            f"set {binaries.ENV} to those of {made_by}, or choose another state_dir"
        )


def create(place: identity.Placement, cluster: Path, major: int, *, sync: bool) -> None:
    """Make a cluster with one superuser and one database, both named `marketd`.

    It grows under another name and is renamed when complete. Without `sync` it may not survive a crash of
    the machine.
    """
    fresh = cluster.with_name(f"{cluster.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    place.run_as.own(fresh)
    _run(place, ["initdb", "-D", fresh, "-U", USER, *_initdb_options(major, sync=sync)])
    durability = "on" if sync else "off"
    single: list[str | Path] = ["postgres", "--single", "-D", fresh, "-c", f"fsync={durability}", "postgres"]
    _run(place, single, stdin=f"create database {DATABASE}\n")
    fresh.rename(cluster)


def _initdb_options(major: int, *, sync: bool) -> list[str]:
    options = ["-A", "trust", "-E", "UTF8", "--no-instructions", *([] if sync else ["-N"])]
    if major >= 17:
        return [*options, "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    # Before 17 case mapping beyond ASCII comes from the C library, and macOS has no C.UTF-8.
    return [*options, "--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C"]


def _run(place: identity.Placement, command: list[str | Path], stdin: str = "") -> None:
    program, *arguments = command
    done = subprocess.run(
        place.run_as.argv([place.bin_dir / program, *arguments]),
        env=identity.environment(),
        cwd="/",
        input=stdin,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    if done.returncode != 0:
        raise EmbeddedError(f"{program} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
