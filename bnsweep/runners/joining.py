"""Joining a running Ray cluster, or starting a Ray for a while: always with a token, and quietly."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from bnsweep.errors import BnsweepError, ServiceError

from . import access
from .cluster import Cluster
from .leftovers import driver_folder, ray_folder

__all__ = ["alone", "attach", "prepare_tune", "start_ray"]

_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@contextmanager
def attach(
    address: str,
    *,
    insecure: bool = False,
    parcel: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    patience: float = float("inf"),
) -> Iterator[Cluster]:
    """Join a running cluster from one of its machines, and leave it at the end.

    Args:
        address: ``auto`` for the cluster of this machine, or ``HOST:PORT`` of its control service.
        insecure: Permit a cluster on this machine that asks for no token.
        parcel: Folder with this package and the user's modules, sent to every node; not used in a Ray job,
            which has brought it.
        say: Called with sentences for people.
        patience: Seconds to wait for a free place of a worker.

    Yields:
        The cluster.

    Raises:
        BnsweepError: If the address is of another kind, no token is known, or versions differ.
        ServiceError: If no cluster answers there, or it refuses the token.
    """
    where = _control_address(address)
    if insecure:
        access.permit_insecure(where)
        asks = access.asks_for_token(where)
    else:
        access.require_token()
        asks = access.asks_for_token(where)
        if not asks:
            raise BnsweepError(
                f"A cluster must ask for a token, but the one at {where} does not: whoever reaches it runs "
                "code there. Start it again with RAY_AUTH_MODE=token and a token on every machine; "
                "--insecure is for clusters on 127.0.0.1."
            )
        access.check_token(where)
    if insecure and asks:
        raise BnsweepError(f"The cluster at {where} asks for a token: leave --insecure out.")
    environment = {"working_dir": str(parcel)} if parcel is not None and _IN_JOB not in os.environ else None
    _join(where, environment)
    try:
        yield Cluster(where, say, patience)
    finally:
        ray.shutdown()


@contextmanager
def alone(say: Callable[[str], None] = lambda _: None, patience: float = float("inf")) -> Iterator[Cluster]:
    """Start a Ray that only this process may use, as a cluster of this machine alone.

    Args:
        say: Called with sentences for people.
        patience: Seconds to wait for a free place of a worker.

    Yields:
        The cluster.

    Raises:
        ServiceError: If Ray does not start.
    """
    with driver_folder() as folder:
        start_ray(ray_folder(folder))
        try:
            yield Cluster("", say, patience)
        finally:
            ray.shutdown()


def _control_address(address: str) -> str:
    """Return ``HOST:PORT`` of the cluster that is meant."""
    if address.startswith(("http://", "https://")):
        raise BnsweepError(
            f"run joins a cluster from one of its machines, with {access.ADDRESS_SHAPES.split(', ')[0]}, but "
            f"found {address}. From any other machine: bnsweep submit FILE --address {address}. Without "
            "--address and RAY_ADDRESS, run trains on this machine."
        )
    if address == "auto":
        from ray._private import services

        found = services.find_bootstrap_address(None) or next(iter(services.find_gcs_addresses()), None)
        if found is None:
            raise ServiceError(
                "A Ray cluster must be running on this machine, but none was found. Start it with ray start, "
                "give its HOST:PORT, or leave --address out to train on this machine alone."
            )
        return str(found)
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise BnsweepError(f"--address must be {access.ADDRESS_SHAPES}, but found {address}.")
    return address


def _join(address: str, environment: dict[str, Any] | None) -> None:
    prepare_tune()
    try:
        with _own_sigterm():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env=environment,
            )
    except Exception as error:
        ray.shutdown()
        text = " ".join(str(error).split())
        if "Version mismatch" in text:
            raise BnsweepError(f"Every machine must have the same Ray and Python. {text}") from error
        raise ServiceError(
            f"The cluster at {address} must be joined from one of its machines, but Ray said: {text[:400]} "
            "From any other machine: bnsweep submit FILE --address http://HOST:8265."
        ) from error


def prepare_tune() -> None:
    """Keep Tune from writing what only itself would read; before Ray is imported or started."""
    for name, value in {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_DEDUP_LOGS": "0",
    }.items():
        os.environ.setdefault(name, value)


def start_ray(folder: str | None = None, attempts: int = 3) -> None:
    """Start a Ray that only this process may use; again where a busy machine was slow: Ray gives itself 30 s.

    Args:
        folder: Where it keeps its session and its logs; Ray's own place by default.
        attempts: How often to try.

    Raises:
        ServiceError: If it does not start.
    """
    prepare_tune()
    access.make_private_token()
    with _own_sigterm():
        _start(folder, attempts)


def _start(folder: str | None, attempts: int) -> None:
    for attempt in range(1, attempts + 1):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
            return
        except Exception as error:
            ray.shutdown()
            if attempt == attempts or "timed out" not in str(error).lower():
                raise ServiceError(f"Ray must start on this machine, but it said: {error}") from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the driver's handler of SIGTERM, which starting Ray replaces by one that ends the process."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
