"""The Ray cluster that this process has joined: its machines, what they answer, and waiting for room."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bnsweep.errors import BnsweepError, ServiceError
from bnsweep.trial import TrialConfig

from . import admission, node_probe
from .autoscaler import adds_machines, autoscaler_state, never_fits
from .machine import Node
from .origin import hide_secrets
from .preflight import Preflight

__all__ = ["Cluster"]

LOOK_SECONDS = 120.0
"""How long a node may take to answer; it may have to start a Python and unpack this package."""

LEAVE_SECONDS = 10.0
"""How long a machine that does not answer may be on its way out."""

TELL_SECONDS = 30.0

HEAD_SECONDS = 60.0
"""How long a cluster that is a head alone is waited for to say that it grows."""


class Cluster:
    """The cluster that this process has joined; nodes are looked up anew at each call.

    Args:
        address: Where its control service is.
        say: Called with sentences for people.
        patience: Seconds to wait for a free place of a worker.
    """

    def __init__(
        self,
        address: str = "",
        say: Callable[[str], None] = lambda _: None,
        patience: float = float("inf"),
    ) -> None:
        self.address, self.say, self.patience = address, say, patience
        self._resources = (1.0, 0.0)

    @property
    def nodes(self) -> list[Node]:
        """The machines that are there now, by name."""
        found = [_node(entry) for entry in ray.nodes() if entry["Alive"]]
        return sorted(found, key=lambda node: (node.host, node.node_id))

    def slots(self, cpus: float, gpus: float) -> int:
        """Return how many workers fit now, counted node by node."""
        return sum(node.slots(cpus, gpus) for node in self.nodes)

    def neighbours(self, cpus: float, gpus: float) -> int:
        """Return how many workers share a machine, at most."""
        return max((node.slots(cpus, gpus) for node in self.nodes), default=1) or 1

    def gpu_types(self, cpus: float, gpus: float) -> dict[str, int]:
        """Return how many workers fit now, by type of GPU; of an unknown type where that is empty."""
        counts: dict[str, int] = {}
        for node in self.nodes:
            if gpus and (slots := node.slots(cpus, gpus)):
                counts[node.gpu] = counts.get(node.gpu, 0) + slots
        return counts

    @property
    def has_this_machine(self) -> bool:
        """Whether the machine of this process is still part of it."""
        own = ray.get_runtime_context().get_node_id()
        return any(node.node_id == own for node in self.nodes)

    @property
    def grows(self) -> bool:
        """Whether an autoscaler adds machines."""
        return adds_machines(autoscaler_state())

    def admit(self, cpus: float, gpus: float, storage: str, uri: str | None) -> None:
        """Look, before anything is written, whether workers can do here what they have to do.

        Args:
            cpus: CPUs of one worker.
            gpus: GPUs of one worker.
            storage: Folder of results.
            uri: Tracking store.

        Raises:
            BnsweepError: If no machine is large enough, versions differ, or a folder is not shared.
            ServiceError: If a machine does not answer.
        """
        self.check_place(cpus, gpus)
        self.await_place()
        kinds = self.gpu_types(cpus, gpus)
        if len(kinds) > 1 and (self.grows or "" in kinds):
            names = ", ".join(sorted(kind or "unknown" for kind in kinds))
            why = "the cluster grows" if self.grows else "Ray does not know them all"
            self.say(
                f"note: GPUs of several types ({names}), and {why}: packs are sized by that which measures "
                "first; resources.pack_size fixes their size"
            )
        admission.check_versions(self.look())
        admission.check_storage(self.look, storage, uri)

    def await_place(self) -> None:
        """Wait until some machine is large enough for a worker, where none is yet but one may come.

        Raises:
            BnsweepError: If none ever can.
            TimeoutError: If none has come within the patience.
        """
        cpus, gpus = self._resources
        if self.slots(cpus, gpus):
            return
        task = ray.remote(num_cpus=cpus, num_gpus=gpus)(_stand_there).remote()
        try:
            self._wait(task)
        except BaseException:
            ray.cancel(task, force=True)
            raise

    def check_place(self, cpus: float, gpus: float) -> None:
        """Refuse a worker for which no machine, here or to come, is large enough.

        Raises:
            BnsweepError: With what the machines have.
        """
        self._resources = cpus, gpus
        if self.slots(cpus, gpus) or self.grows or self._grows_soon():
            return
        raise BnsweepError(admission.no_place(cpus, gpus, self.nodes))

    def _grows_soon(self) -> bool:
        """Wait for the first word of an autoscaler, where the cluster is a head alone, as one just begun."""
        until = time.monotonic() + HEAD_SECONDS
        while not any(node.cpus or node.gpus for node in self.nodes) and time.monotonic() < until:
            time.sleep(1.0)
            if self.grows:
                return True
        return False

    def check_gpus(self, gpus: float, found: Preflight) -> None:
        """Refuse machines whose GPUs torch cannot use."""
        if gpus and not found.gpus:
            raise BnsweepError(
                "Workers must be able to use the GPUs that Ray gives them, but torch sees none there. "
                "Install a torch build with CUDA and the driver on the machines, or set resources.gpus to 0."
            )

    def look(self, request: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        """Ask every machine that takes workers; see :func:`~bnsweep.runners.node_probe.look_around`.

        One that leaves the cluster meanwhile is left out.

        Raises:
            ServiceError: If one does not answer.
        """
        nodes = [node for node in self.nodes if node.slots(*self._resources)]
        asked = ray.remote(num_cpus=0, max_retries=1)(_by_value())
        content = {"packages": node_probe.PACKAGES, **(request or {})}
        tasks = {
            node: asked.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            ).remote({**content, "answer": node.node_id})
            for node in nodes
        }
        answers = {}
        until = time.monotonic() + LOOK_SECONDS
        for node, task in tasks.items():
            try:
                answers[node.node_id] = ray.get(task, timeout=max(1.0, until - time.monotonic()))
            except Exception as error:
                if self._has_left(node):
                    continue
                raise ServiceError(
                    f"Every machine of the cluster must answer, but {node.host} ({node.address}) does not: "
                    f"{_first_line(error)}. See ray status; stop Ray on that machine or mend it."
                ) from error
        return answers

    def _has_left(self, node: Node) -> bool:
        """Whether a machine that does not answer has left the cluster; Ray may need a moment to know."""
        until = time.monotonic() + LEAVE_SECONDS
        while any(other.node_id == node.node_id for other in self.nodes):
            if time.monotonic() > until:
                return False
            time.sleep(0.5)
        return True

    def preflight(self, trials: Sequence[TrialConfig], data_root: str | None) -> Preflight:
        """Load the data and build every network once, where a worker will be.

        The task takes what one worker takes; where no machine is free for it, it waits, and says since when.

        Raises:
            BnsweepError: If a trial could not be trained, or no machine can ever hold a worker.
        """
        cpus, gpus = self._resources
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(_look_there)
        waiting = task.remote({"trials": [trial.to_dict() for trial in trials], "data_root": data_root})
        try:
            answer = self._wait(waiting)
        except BaseException:
            ray.cancel(waiting, force=True)
            raise
        if answer.get("error"):
            raise BnsweepError(answer["error"])
        admission.check_data(self.look, data_root, trials)
        return Preflight(tuple(answer["notes"]), dict(answer["stacks"]), int(answer["gpus"]))

    def _wait(self, task: Any) -> dict[str, Any]:
        cpus, gpus = self._resources
        began = told = time.monotonic()
        since = datetime.now().astimezone().strftime("%H:%M:%S")
        while not ray.wait([task], timeout=2.0)[0]:
            if time.monotonic() - began > self.patience:
                raise TimeoutError(f"no place was free for a worker within {self.patience:.0f} s")
            if not self.slots(cpus, gpus) and never_fits(autoscaler_state(), cpus, gpus):
                raise BnsweepError(admission.no_place(cpus, gpus, self.nodes, grows=True))
            if time.monotonic() - told > TELL_SECONDS or (told == began and time.monotonic() - began > 5):
                told = time.monotonic()
                have = self.slots(cpus, gpus)
                state = f"{have} places, all taken" if have else "no machine is large enough yet"
                self.say(f"waiting for capacity since {since} ({told - began:.0f} s): {state}")
        try:
            return dict(ray.get(task))
        except Exception as error:
            raise ServiceError(
                f"A worker must start on the cluster, but it ended: {_first_line(error)}. See ray status."
            ) from error


def _stand_there() -> dict[str, Any]:
    """Take the place of a worker, as a task, for a moment."""
    return {}


def _look_there(request: dict[str, Any]) -> dict[str, Any]:
    """Run the preflight in a worker of the cluster."""
    import sys

    from bnsweep.errors import BnsweepError
    from bnsweep.runners.preflight import look

    sys.path.insert(0, os.getcwd())
    try:
        return look(request)
    except BnsweepError as error:
        return {"error": hide_secrets(str(error))}


def _by_value() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the probe such that it travels as code, not as the name of a module that may be absent."""
    ray.cloudpickle.register_pickle_by_value(node_probe)
    return node_probe.look_around


def _node(entry: Mapping[str, Any]) -> Node:
    resources = entry["Resources"]
    kinds = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    return Node(
        entry["NodeManagerHostname"],
        float(resources.get("CPU", 0)),
        float(resources.get("GPU", 0)),
        kinds[0] if kinds else "",
        entry["NodeID"],
        entry["NodeManagerAddress"],
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return hide_secrets(lines[-1])[:300] if lines else type(error).__name__
