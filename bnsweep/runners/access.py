"""Who may use a Ray cluster: token authentication, set here whatever Ray's own default is.

Whoever reaches a Ray cluster that asks for no token runs code on it. So every Ray that bnsweep starts or
joins is in token mode: a Ray of its own gets a token that only this process knows the place of, and a
cluster must ask for the one that it was started with. The only way around is ``--insecure``, for
addresses that no other machine reaches.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from bnsweep.errors import BnsweepError, ServiceError

__all__ = [
    "ADDRESS_SHAPES",
    "asks_for_token",
    "check_token",
    "is_loopback",
    "make_private_token",
    "permit_insecure",
    "plain_text_warning",
    "require_token",
]

ADDRESS_SHAPES = "auto or HOST:PORT for a machine of the cluster, http(s)://HOST:PORT for any other"

_MODE, _PATH, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN"
_private: Path | None = None


def make_private_token() -> None:
    """Let this process start a Ray that nobody else may use, unless the user has named a token.

    The token is 256 bits in a file of mode 0600, gone when this process ends; if it is killed, when the next
    driver of this machine starts.

    Raises:
        BnsweepError: If the user has named a token file that others can read.
    """
    global _private
    if not os.environ.get(_TOKEN) and not os.environ.get(_PATH):
        if _private is None:
            folder = Path(tempfile.mkdtemp(prefix=f"bnsweep-p{os.getpid()}-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            _private = folder / "token"
            _private.touch(0o600)
            _private.write_text(secrets.token_hex(32))
        os.environ[_PATH] = str(_private)
    _set_mode("token")
    _check_file()


def require_token() -> None:
    """Let this process speak to clusters with the user's token, and with no other.

    Raises:
        BnsweepError: If there is no token, it is empty, or its file can be read by others.
    """
    if _private is not None and os.environ.get(_PATH) == str(_private):
        del os.environ[_PATH]
    _set_mode("token")
    path = _check_file()
    if not os.environ.get(_TOKEN, "").strip() and not (path.exists() and path.read_text().strip()):
        raise BnsweepError(
            f"The cluster's token must be known here, but {path} holds none and {_TOKEN} is not set. Copy "
            f"the token file of the cluster's head there (chmod 600), or name it in {_PATH}."
        )


def permit_insecure(address: str) -> None:
    """Speak to a cluster without a token: for addresses that no other machine reaches.

    Args:
        address: URL or ``HOST:PORT``.

    Raises:
        BnsweepError: If other machines may reach it.
    """
    if not is_loopback(address) and not _is_own(address):
        raise BnsweepError(
            f"--insecure is for clusters on 127.0.0.1, but found {address}: whoever reaches a cluster "
            "without a token runs code on it. Start it with RAY_AUTH_MODE=token and a token instead."
        )
    _set_mode("disabled")


def is_loopback(address: str) -> bool:
    """Tell whether an address means this machine alone.

    Example:
        >>> is_loopback("http://localhost:8265"), is_loopback("[::1]:6379"), is_loopback("10.0.0.1:6379")
        (True, True, False)
    """
    host = _host(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def plain_text_warning(url: str) -> str:
    """Return what to say about an address that sends secrets readable across a public network, if it does.

    Example:
        >>> plain_text_warning("http://10.0.0.7:8265"), plain_text_warning("https://ray.example.org")
        ('', '')
        >>> plain_text_warning("http://ray.example.org:8265")[:38]
        'http://ray.example.org:8265 is plain h'
    """
    host = _host(url)
    if not url.startswith("http://") or host == "localhost" or "." not in host + ("." if ":" in host else ""):
        return ""
    try:
        if ipaddress.ip_address(host).is_private:
            return ""
    except ValueError:
        if host.endswith((".local", ".internal", ".lan", ".svc", ".cluster.local")):
            return ""
    parts = urlsplit(url)
    shown = f"http://{parts.netloc.rpartition('@')[2]}"
    return (
        f"{shown} is plain http to a public name: tokens and passwords can be read on the way. Use https, an "
        "SSH tunnel (ssh -L) or a private network."
    )


def asks_for_token(address: str, timeout: float = 5.0) -> bool:
    """Tell whether a running Ray asks for a token, by calling it without one.

    Args:
        address: ``HOST:PORT`` of the cluster's control service.
        timeout: Seconds to wait for an answer.

    Raises:
        ServiceError: If nothing like Ray answers there.
    """
    import grpc

    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        try:
            call(b"", timeout=timeout)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return True
            raise ServiceError(
                f"A Ray cluster must answer at {address}, but it does not ({error.code().name.lower()}). "
                "Check the address and that ray start --head is running there; 6379 is its usual port."
            ) from error
    return False


def check_token(address: str, timeout: float = 5.0) -> None:
    """Check that a cluster accepts the token of this process.

    Args:
        address: ``HOST:PORT`` of the cluster's control service.
        timeout: Seconds to wait for an answer.

    Raises:
        ServiceError: If it does not; the token is not shown.
    """
    import grpc

    token = os.environ.get(_TOKEN, "").strip() or _check_file().read_text().strip()
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        try:
            call(b"", timeout=timeout, metadata=[("authorization", f"Bearer {token}")])
        except grpc.RpcError as error:
            raise ServiceError(
                f"The cluster at {address} must accept the token, but refuses it "
                f"({error.code().name.lower()}). Use the token that its head was started with, in {_PATH} or "
                "~/.ray/auth_token."
            ) from None


def _is_own(address: str) -> bool:
    """Tell whether an address is one of this machine's network cards, which Ray prefers to loopback."""
    if "://" in address:
        return False
    try:
        with socket.socket() as probe:
            probe.bind((_host(address), 0))
    except OSError:
        return False
    return True


def _host(address: str) -> str:
    try:
        return urlsplit(address if "://" in address else f"//{address}").hostname or ""
    except ValueError:
        return ""


def _set_mode(mode: str) -> None:
    """Set the mode for this process and what it starts, also where Ray has read it before."""
    os.environ[_MODE] = mode
    if "ray" in sys.modules:
        from ray import _raylet

        _raylet.Config.initialize("")  # type: ignore[attr-defined]
        loader = _raylet.AuthenticationTokenLoader  # type: ignore[attr-defined]
        loader.instance().reset_cache()


def _check_file() -> Path:
    """Return where the token is read from; refuse a file that others can read."""
    named = os.environ.get(_PATH)
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        mode = 0o600
    if mode & 0o077 and not os.environ.get(_TOKEN):
        raise BnsweepError(
            f"The token must be readable by its owner alone, but {path} has mode {mode:04o}: others on this "
            f"machine could use the cluster. Run chmod 600 {path}."
        )
    return path
