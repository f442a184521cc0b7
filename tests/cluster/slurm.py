"""A Slurm of several hosts: munge and slurmd on each, the controller on the first."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.cluster import hosts

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={head}({address})
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={local}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={local}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={local}/spool
SlurmdPidFile={local}/slurmd.pid
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
KillWait=60
ReturnToService=2
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def obstacle() -> str:
    """Return why there can be no Slurm here, or nothing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge)" if missing else hosts.obstacle()


class Slurm:
    """Slurm on all hosts of a network, the first of which controls; ``cpus`` are CPUs of each."""

    def __init__(self, network: hosts.Network, cpus: int) -> None:
        self.network, self.head = network, network.hosts[0]
        self.folder, self.local = network.folder, network.folder / "local"
        (self.folder / "home").mkdir()
        self.configuration = self.folder / "slurm.conf"
        nodes = [
            f"NodeName={host.name} NodeAddr={host.address} CPUs={cpus} RealMemory=2000 State=UNKNOWN"
            for host in network.hosts
        ]
        text = CONFIGURATION.format(
            head=self.head.name,
            address=self.head.address,
            folder=self.folder,
            local=self.local,
            nodes="\n".join(nodes),
        )
        self.configuration.write_text(text)
        names = self.folder / "hosts"
        names.write_text(
            "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in network.hosts)
        )
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        self.running: list[subprocess.Popen[str]] = []
        TEMPORARY.mkdir(exist_ok=True)
        for host in network.hosts:
            host.run("mount", "--bind", str(names), "/etc/hosts")
            (host.own / "temporary").mkdir()
            host.run("mount", "--bind", str(host.own / "temporary"), str(TEMPORARY))
            words = [f"--{what}={self.local}/munge.{what.removesuffix('-file')}" for what in FILES]
            self.start(host, "munged", "--foreground", "--force", f"--key-file={key}", *words)
        hosts.wait_for(lambda: all(self.munged(host) for host in network.hosts), "munge")
        self.start(self.head, "slurmctld", "-D")
        for host in network.hosts:
            self.start(host, "slurmd", "-D", "-N", host.name)
        hosts.wait_for(lambda: self.states("sinfo", "--format=%T") == {"idle"}, "idle nodes of Slurm")

    def munged(self, host: hosts.Host) -> bool:
        """Whether munge answers on a host."""
        done = host.run("munge", f"--socket={self.local}/munge.socket", "--no-input", check=False)
        return bool(done.returncode == 0)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of a user of Slurm's."""
        own = {"SLURM_CONF": str(self.configuration), "HOME": str(self.folder / "home"), **more}
        return self.head.environment(token=False, more=own)

    def start(self, host: hosts.Host, *words: str) -> None:
        """Start a service on a host."""
        self.running.append(host.start(*words, log=f"{words[0]}-{host.name}.out", env=self.environment()))

    def ask(self, *words: str, **more: str) -> str:
        """Run one of Slurm's commands on the first host and return what it prints."""
        done: Any = self.head.run(*words, env=self.environment(**more), cwd=Path(__file__).parents[2])
        return str(done.stdout)

    def states(self, *words: str) -> set[str]:
        """Return the words that a command prints without its heading."""
        return set(self.ask(*words, "--noheader").split())


TEMPORARY = Path("/tmp/ray-1")
"""Ray's folder of the first job, of which every host has its own."""

FILES = ("socket", "pid-file", "log-file", "seed-file")
