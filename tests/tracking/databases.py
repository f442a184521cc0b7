"""A PostgreSQL cluster of our own under a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bnsweep.tracking.ui import free_port

PASSWORD = "correct-horse-battery"


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, or ``None`` where they are not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    other = shutil.which("initdb")
    return Path(other).parent if other else None


class Postgres:
    """A running cluster; makes databases."""

    def __init__(self, port: int, psql: Path, address: str = "127.0.0.1") -> None:
        self.port, self._psql, self._made, self.address = port, psql, 0, address

    def database(self) -> str:
        """Make an empty database and return its URI."""
        self._made += 1
        name = f"test{self._made}"
        words = [str(self._psql), "-h", self.address, "-p", str(self.port), "-U", "tester", "postgres"]
        subprocess.run(
            [*words, "-qc", f"CREATE DATABASE {name}"],
            check=True, env={**os.environ, "PGPASSWORD": PASSWORD}, timeout=120,
        )  # fmt: skip
        return f"postgresql://tester:{PASSWORD}@{self.address}:{self.port}/{name}"


@contextmanager
def postgres(where: Path, address: str = "127.0.0.1") -> Iterator[Postgres]:
    """Make a cluster with a password, by the programs in ``where``, and serve it at one address."""
    with tempfile.TemporaryDirectory(prefix="bnsweep-postgres-") as name:
        yield from _serve(where, Path(name), address)


def _serve(where: Path, folder: Path, address: str) -> Iterator[Postgres]:
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses root
        user = pwd.getpwnam("nobody").pw_name
        shutil.chown(folder, user)

    def call(*words: str) -> None:
        subprocess.run(words, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL, timeout=200)

    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    data, port = folder / "data", free_port(0)
    call(
        str(where / "initdb"), "-D", str(data), "-U", "tester", "--auth=scram-sha-256",
        f"--pwfile={secret}", "--no-sync", "-E", "UTF8",
    )  # fmt: skip
    secret.unlink()
    if address != "127.0.0.1":
        with (data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {address}/24 scram-sha-256\n")
    options = f"-p {port} -c listen_addresses={address} -c unix_socket_directories='' -c fsync=off"
    control = str(where / "pg_ctl")
    call(control, "-D", str(data), "-w", "-t", "120", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield Postgres(port, where / "psql", address)
    finally:
        call(control, "-D", str(data), "-m", "immediate", "-w", "stop")
