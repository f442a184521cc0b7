"""What a Ray cluster's autoscaler says: whether it adds machines, and what it has no kind of machine for."""

from __future__ import annotations

from typing import Any

__all__ = ["adds_machines", "autoscaler_state", "never_fits"]


def autoscaler_state() -> Any:
    """Return the cluster's state with what its autoscaler last reported; ``None`` where there is none."""
    from ray._private.worker import global_worker
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    try:
        client = global_worker.gcs_client  # one of our own would leave its socket behind
        reply.ParseFromString(client.get_cluster_status(timeout_s=10))
    except Exception:
        return None
    return reply if reply.autoscaling_state.autoscaler_state_version else None


def adds_machines(found: Any) -> bool:
    """Tell whether an autoscaler that has reported adds machines."""
    return bool(found and any(state.ray_node_type_name for state in found.cluster_resource_state.node_states))


def never_fits(found: Any, cpus: float, gpus: float) -> bool:
    """Tell whether the autoscaler says that it has no kind of machine for one worker."""
    if found is None:
        return True
    wanted = {name: value for name, value in (("CPU", cpus), ("GPU", gpus)) if value}
    return any(
        {name: value for name, value in request.resources_bundle.items() if value} == wanted
        for request in found.autoscaling_state.infeasible_resource_requests
    )
