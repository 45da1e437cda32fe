"""`python -m marketd.embedded COMMAND...`: runs a command beside a throw-away Postgres.

The command finds the empty database's address in MARKETD_DSN, and psql and pg_dump first on its PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from marketd.embedded import TEST_SETTINGS, EmbeddedError, EmbeddedPostgres, pg_bin


def main() -> int:
    """The command's exit status; 75 when no Postgres can be had, 2 without a command, 127 where it is not there."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0 if len(sys.argv) > 1 else 2
    folder = Path(tempfile.mkdtemp(prefix="marketd-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        with EmbeddedPostgres(folder / "pg", TEST_SETTINGS) as server:
            path = f"{pg_bin()}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
            return subprocess.call(sys.argv[1:], env=os.environ | {"MARKETD_DSN": server.dsn(), "PATH": path})
    except (FileNotFoundError, PermissionError) as error:
        print(f"marketd.embedded: {error.filename}: {error.strerror}", file=sys.stderr)
        return 127
    except EmbeddedError as error:
        print(f"marketd.embedded: {error}", file=sys.stderr)
        return 75
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
