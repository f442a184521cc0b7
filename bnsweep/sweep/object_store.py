"""Requests to an S3 object store: patient, bounded, and clear about who wrote what.

The client is boto3's, so that credentials, profiles, regions and endpoints come from where AWS's own
tools take them; nothing of these is stored or shown. boto3 repeats a failed request twice at once; a
store that is away for longer is asked again, with growing pauses, for :data:`PATIENCE_SECONDS`.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from bnsweep.errors import StorageError

__all__ = ["PATIENCE_SECONDS", "Conflict", "Facts", "ObjectStore", "connection", "in_parallel"]

PATIENCE_SECONDS = 60.0
"""How long a store that has answered before is asked again, before a write or a read fails."""

FIRST_PATIENCE_SECONDS = 15.0
"""The same where it never answered: the address may be wrong."""

WORKERS = 16
"""Requests on their way at once."""

MOST_LISTED = 1000
"""Objects in one answer to a listing: the most that S3 gives."""

_LONGEST_PAUSE_S = 5.0
_MULTIPART_BYTES = 64 * 2**20
_BUSY = {"SlowDown", "RequestTimeout", "ConditionalRequestConflict", "OperationAborted", "InternalError"}
_BUSY |= {"Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"}
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}

T = TypeVar("T")
U = TypeVar("U")


class Conflict(Exception):
    """The store refused a conditional request, because something is there already, or has changed."""


@dataclass(frozen=True)
class Facts:
    """What a store says of an object without sending it.

    Attributes:
        key: Its key.
        size: Its size in bytes.
        etag: What differs between two versions of it.
    """

    key: str
    size: int
    etag: str


class ObjectStore:
    """The requests that the ledger needs; one object serves all threads of a process.

    Absent objects raise :class:`FileNotFoundError`; whatever else fails for good raises
    :class:`StorageError`, which is a :class:`LedgerError` and an :class:`OSError` at once.
    """

    def __init__(self) -> None:
        self._client = _make_client()
        self._heard = False

    def get(self, bucket: str, key: str) -> bytes:
        """Return an object's bytes."""

        def ask() -> bytes:
            return bytes(self._client.get_object(Bucket=bucket, Key=key)["Body"].read())

        return self._ask("reading", bucket, key, ask)

    def head(self, bucket: str, key: str) -> Facts:
        """Return size and ETag of an object."""
        answer = self._head(bucket, key)
        return Facts(key, int(answer["ContentLength"]), str(answer["ETag"]))

    def _head(self, bucket: str, key: str) -> dict[str, Any]:
        return self._ask("finding", bucket, key, lambda: self._client.head_object(Bucket=bucket, Key=key))

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Write an object, in place of one that is there."""
        self._ask(
            "writing", bucket, key, lambda: self._client.put_object(Bucket=bucket, Key=key, Body=content)
        )

    def upload(self, bucket: str, key: str, file: BinaryIO) -> None:
        """Write an object of any size, in parts where it is large; it appears whole."""
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=_MULTIPART_BYTES, multipart_chunksize=_MULTIPART_BYTES)

        def ask() -> None:
            file.seek(0)
            self._client.upload_fileobj(_Unclosed(file), bucket, key, Config=config)

        self._ask("writing", bucket, key, ask)

    def create(self, bucket: str, key: str, content: bytes) -> bool:
        """Write an object unless it is there: the first writer wins.

        A request whose answer was lost is repeated, and then finds its own object: who wrote what is
        there is told by a mark that each call leaves on it.

        Returns:
            Whether this call wrote it.
        """
        mark = uuid.uuid4().hex

        def ask() -> None:
            self._client.put_object(
                Bucket=bucket, Key=key, Body=content, IfNoneMatch="*", Metadata={"bnsweep-writer": mark}
            )

        try:
            self._ask("writing", bucket, key, ask)
            return True
        except Conflict:
            return self._marked(bucket, key, mark)

    def _marked(self, bucket: str, key: str, mark: str) -> bool:
        try:
            return bool(self._head(bucket, key)["Metadata"].get("bnsweep-writer") == mark)
        except FileNotFoundError:
            return False

    def move(self, bucket: str, key: str, target: str) -> None:
        """Copy an object to ``target`` and delete it, unless it changes meanwhile.

        Raises:
            Conflict: If it was written anew after it was looked at; then it stays.
        """
        etag = self.head(bucket, key).etag
        source = {"Bucket": bucket, "Key": key}
        self._ask(
            "copying", bucket, key,
            lambda: self._client.copy_object(
                Bucket=bucket, Key=target, CopySource=source, CopySourceIfMatch=etag
            ),
        )  # fmt: skip
        if self.head(bucket, key).etag != etag:
            raise Conflict(key)
        self.delete(bucket, key)

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object, or nothing where it is absent."""
        self._ask("deleting", bucket, key, lambda: self._client.delete_object(Bucket=bucket, Key=key))

    def list(
        self, bucket: str, prefix: str, *, flat: bool = True, most: int | None = None, goes_on: str = ""
    ) -> tuple[list[Facts], list[str]]:
        """List the objects whose key begins with ``prefix``.

        Args:
            bucket: The bucket.
            prefix: Beginning of the keys.
            flat: Whether to list all of them; otherwise only those without a further slash.
            most: Stop after so many.
            goes_on: Where there are more than one answer holds, list side by side what begins with
                ``prefix`` and each of these characters, and nothing else.

        Returns:
            The objects by key, and, unless ``flat``, the beginnings up to a slash of all others.
        """
        objects: list[Facts] = []
        folders: list[str] = []
        options: dict[str, Any] = {} if flat else {"Delimiter": "/"}
        options["MaxKeys"] = MOST_LISTED if most is None else most
        while True:

            def ask(options: dict[str, Any] = dict(options)) -> dict[str, Any]:  # noqa: B006
                return dict(self._client.list_objects_v2(Bucket=bucket, Prefix=prefix, **options))

            page = self._ask("listing", bucket, prefix, ask)
            objects += [
                Facts(str(item["Key"]), int(item["Size"]), str(item["ETag"]))
                for item in page.get("Contents", ())
            ]
            folders += [str(item["Prefix"]) for item in page.get("CommonPrefixes", ())]
            if most is not None or not page.get("IsTruncated"):
                return objects, folders
            if goes_on and objects:
                reached = objects[-1].key[: len(prefix) + 1]
                rest = [prefix + character for character in sorted(goes_on) if prefix + character >= reached]
                whole = [facts for facts in objects if facts.key < reached]
                parts = in_parallel(lambda beginning: self.list(bucket, beginning)[0], rest)
                return [*whole, *itertools.chain.from_iterable(parts)], []
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _ask(self, does: str, bucket: str, key: str, ask: Callable[[], T]) -> T:
        """Send one request, again and again where the store is away or busy; say what is wrong otherwise."""
        from botocore.exceptions import BotoCoreError, ClientError

        url = f"s3://{bucket}/{key}"
        began, pause = time.monotonic(), 0.2
        while True:
            try:
                answer = ask()
                self._heard = True
                return answer
            except ClientError as error:
                self._heard = True
                if not _is_busy(error):
                    raise _translated(error, does, bucket, url) from error
                cause: Exception = error
            except BotoCoreError as error:
                if not isinstance(error, _away()):
                    raise StorageError(
                        f"The results store must be usable, but {does} {url} failed: {_shown(error)}. "
                        "Credentials, region and endpoint are those of AWS's own tools: AWS_ACCESS_KEY_ID "
                        "and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; AWS_ENDPOINT_URL for another store."
                    ) from error
                cause = error
            waited = time.monotonic() - began
            if waited > (PATIENCE_SECONDS if self._heard else FIRST_PATIENCE_SECONDS):
                raise StorageError(
                    f"The results store must answer, but {does} {url} failed for {waited:.0f} s: "
                    f"{_shown(cause)}. Nothing that was acknowledged is lost; run again when it is back."
                ) from cause
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE_S)


class _Unclosed:
    """A file that s3transfer may not close: it is read again where the request is repeated."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        """Leave it open."""


def _make_client() -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise StorageError(
            "Storage on S3 needs the package boto3, but it is not installed. Run pip install 'bnsweep[s3]'."
        ) from error
    config = Config(
        connect_timeout=5,
        read_timeout=20,
        max_pool_connections=WORKERS,
        retries={"mode": "standard", "total_max_attempts": 3},
        # stores other than Amazon's know no trailing checksums; what matters has its SHA-256 in the ledger
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise StorageError(
            f"The results store must be usable, but AWS's settings are not: {_shown(error)}. See "
            "AWS_PROFILE, AWS_ENDPOINT_URL and ~/.aws/config."
        ) from error


def _away() -> tuple[type[Exception], ...]:
    """Return the errors of a store that does not answer, or whose answer ends early."""
    from botocore.exceptions import ConnectionError, HTTPClientError, IncompleteReadError

    return (ConnectionError, HTTPClientError, IncompleteReadError)


def _is_busy(error: Any) -> bool:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return (status >= 500 and status != 501) or status == 429 or error.response["Error"]["Code"] in _BUSY


def _translated(error: Any, does: str, bucket: str, url: str) -> Exception:
    """Say in our words what a store refused."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = str(error.response["Error"].get("Code", status))
    if code == "NoSuchBucket":
        return StorageError(
            f"The bucket must exist, but there is no {bucket}, or not at this endpoint. Make it, or name "
            "another one."
        )
    if code in ("NoSuchKey", "404", "NotFound"):
        return FileNotFoundError(2, "No such object", url)
    if code in ("PreconditionFailed", "412"):
        return Conflict(url)
    if code in _DENIED or status in (401, 403):
        return StorageError(
            "The credentials must allow s3:ListBucket, GetObject, PutObject and DeleteObject below the "
            f"storage's prefix, but {does} {url} was refused: {_shown(error)}."
        )
    return StorageError(
        f"The results store must accept what is asked, but {does} {url} failed: {_shown(error)}."
    )


def _shown(error: Exception) -> str:
    """Return an error's text in one line, without what may stand before an @ in an address."""
    return re.sub(r"(?<=://)[^/@\s]*@", "***@", " ".join(str(error).split())).rstrip(".")


_lock = threading.Lock()
_known: tuple[int, ObjectStore] | None = None


def connection() -> ObjectStore:
    """Return this process's connection; another one where AWS's variables have changed."""
    global _known
    settings = hash(tuple(item for item in os.environ.items() if item[0].startswith("AWS_")))
    known = _known
    if known is None or known[0] != settings:
        with _lock:
            known = _known
            if known is None or known[0] != settings:
                _known = known = (settings, ObjectStore())
    return known[1]


def _forget() -> None:
    """Let a child process connect anew: two may not talk through one socket."""
    global _known, _lock
    _known, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def in_parallel(function: Callable[[U], T], items: Iterable[U]) -> Iterator[T]:
    """Return ``function`` of each item in order, with several of them under way at once."""
    pending: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="bnsweep-s3")
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 4 * WORKERS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
