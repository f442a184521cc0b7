"""Hosts made of Linux namespaces: own address, name, processes and folders, one bridge between them.

A host is cut off by taking its link down, and killed with all its processes by killing its first one,
as a machine is by its power switch. Needs root and iproute2's ``ip``; :func:`obstacle` says what lacks.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TOKEN = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"
RAY = ("raylet", "gcs_server")


def obstacle() -> str:
    """Return why this machine cannot make hosts, or nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"the program {program} is not installed (Debian: iproute2, util-linux)"
    found = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        return f"namespaces are not permitted here: {found.stderr.strip()}"
    try:
        network = Network(Path("/tmp"), probe=True)
    except subprocess.CalledProcessError as error:
        return f"a bridge cannot be made here: {error.stderr.strip()}"
    network.close()
    return ""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """Wait until ``condition`` gives something true, and return that."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.2)
    return found


class Network:
    """A bridge of this machine's, on which hosts are plugged; this machine has the address ``gateway``.

    Args:
        folder: Where hosts keep what is theirs.
        probe: Make the bridge only, to see whether it is permitted.
    """

    def __init__(self, folder: Path, probe: bool = False) -> None:
        self.folder = folder
        self.number = os.getpid() % 4096
        self.bridge = f"bns{self.number}"
        self.prefix = f"10.{200 + self.number // 256}.{self.number % 256}"
        self.gateway = f"{self.prefix}.254"
        self.hosts: list[Host] = []
        self.variables: dict[str, str] = {}
        run("ip", "link", "add", self.bridge, "type", "bridge")
        try:
            run("ip", "addr", "add", f"{self.gateway}/24", "dev", self.bridge)
            run("ip", "link", "set", self.bridge, "up")
        except subprocess.CalledProcessError:
            self.close()
            raise
        if not probe:
            self.token = folder / "token"
            self.token.touch(0o600)
            self.token.write_text(TOKEN)

    def host(self, name: str) -> Host:
        """Plug in a new host."""
        number = len(self.hosts) + 1
        made = Host(self, name, f"{self.prefix}.{number}", number)
        self.hosts.append(made)
        return made

    def close(self) -> None:
        """Switch everything off."""
        for host in self.hosts:
            host.kill()
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)


class Host:
    """One host; see the module."""

    def __init__(self, network: Network, name: str, address: str, number: int) -> None:
        self.network, self.name, self.address = network, name, address
        self.own = network.folder / f"host-{name}-{number}"
        (self.own / "ray").mkdir(parents=True)
        (self.own / "local").mkdir()
        local = network.folder / "local"
        local.mkdir(exist_ok=True)
        Path("/tmp/ray").mkdir(exist_ok=True)
        setup = (
            f"hostname {name}; mount --make-rprivate /; mount --bind {self.own}/ray /tmp/ray;"
            f"mount --bind {self.own}/local {local}; echo ready; exec sleep infinity"
        )
        words = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
        self.outer = subprocess.Popen([*words, "sh", "-c", setup], stdout=subprocess.PIPE, text=True)
        assert self.outer.stdout is not None
        assert self.outer.stdout.readline() == "ready\n"
        self.first = int(
            Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()[0]
        )
        self.cable = f"{network.bridge}h{number}"
        run("ip", "link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", str(self.first))
        run("ip", "link", "set", self.cable, "master", network.bridge)
        run("ip", "link", "set", self.cable, "up")
        self.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "route", "add", "default", "via", network.gateway)

    def environment(self, token: bool = True, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the variables of a process on this host."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        kept |= {"OMP_NUM_THREADS": "1", "RAY_DISABLE_IMPORT_WARNING": "1"}
        if token:
            kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.network.token)}
        return kept | self.network.variables | dict(more or {})

    def command(self, *words: str) -> list[str]:
        """Return what runs ``words`` on this host."""
        return ["nsenter", "-t", str(self.first), "-n", "-m", "-u", "-p", f"--wd={os.getcwd()}", "--", *words]

    def run(self, *words: str, check: bool = True, timeout: float = 280, **more: Any) -> Any:
        """Run a command here and wait for its end."""
        environment = more.pop("env", None) or self.environment()
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=timeout, env=environment,
            check=False, **more,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{words} on {self.name}: {done.stdout}\n{done.stderr}"
        return done

    def start(self, *words: str, log: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command here; its output goes to a file in the network's folder."""
        environment = more.pop("env", None) or self.environment()
        with (self.network.folder / log).open("ab") as file:
            return subprocess.Popen(self.command(*words), stdout=file, stderr=file, env=environment, **more)

    def ray(self, head: Host | None = None, cpus: int = 1, more: Sequence[str] = ()) -> None:
        """Start Ray, as the head or joined to one."""
        words = [ray_program(), "start", f"--node-ip-address={self.address}", f"--num-cpus={cpus}"]
        words += ["--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats", *more]
        if head is None:
            words += ["--head", "--port=6379", f"--dashboard-host={self.address}"]
        else:
            words += [f"--address={head.address}:6379"]
        self.run(*words, env=self.environment(more=QUICK))

    def cut(self) -> None:
        """Pull the network cable."""
        run("ip", "link", "set", self.cable, "down")

    def mend(self) -> None:
        """Put the cable back."""
        run("ip", "link", "set", self.cable, "up")

    def kill(self) -> None:
        """Switch the host off: every process on it ends at once."""
        if self.outer.poll() is None:
            os.kill(self.first, signal.SIGKILL)
            self.outer.wait(30)
            if self.outer.stdout is not None:
                self.outer.stdout.close()
            subprocess.run(["ip", "link", "del", self.cable], capture_output=True, check=False)


QUICK = {
    "RAY_raylet_start_wait_time_s": "200",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_initial_delay_ms": "5000",
}
"""A host that is cut off counts as dead after a few seconds, not after a minute."""


def ray_program() -> str:
    """Return the path of Ray's command line beside this Python."""
    return str(Path(sys.executable).with_name("ray"))


def run(*words: str) -> None:
    """Run a command of this machine's."""
    subprocess.run(words, check=True, capture_output=True, text=True)
