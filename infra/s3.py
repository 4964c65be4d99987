"""Objects in a bucket of S3 or of a server that speaks it."""

import base64
import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from typing import Any, TypeVar

import boto3
import botocore.session
import google_crc32c
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from infra.objects import AlreadyExists, Corrupt, NotFound, ObjectInfo, StoreError, check_key, check_prefix, check_range
from infra.retry import Retrier, RetryPolicy, Transient
from infra.s3_errors import is_missing, is_past_end, is_taken, translated

T = TypeVar("T")

_WRITE_ID = "write-id"
_CRC32C = "crc32c"
_CONNECTIONS = 64
_PAGE = 1000


class S3Store:
    """Objects below ``prefix`` in a bucket; endpoint, region and credentials come from the standard AWS places.

    Every object carries its CRC32C as metadata, which ``get`` checks, and is sent with its MD5, which servers check:
    both work with every server, unlike the newer checksum headers, which some store and never verify.
    Only bucket, prefix and policy are pickled, never credentials: each process connects by its own environment.
    """

    def __init__(self, bucket: str, prefix: str = "", policy: RetryPolicy | None = None) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._policy = policy or RetryPolicy.from_environment()
        self._connect(reached=False)

    def _connect(self, reached: bool) -> None:
        self._retrier = Retrier(self._policy, reached)
        self._lock = threading.Lock()
        self._client_of: tuple[int, Any] = (0, None)

    def __getstate__(self) -> tuple[str, str, RetryPolicy, bool]:
        return self._bucket, self._prefix, self._policy, self._retrier.reached

    def __setstate__(self, state: tuple[str, str, RetryPolicy, bool]) -> None:
        self._bucket, self._prefix, self._policy, reached = state
        self._connect(reached)

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    @property
    def url(self) -> str:
        """The URL that opens this store again."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def retries(self) -> int:
        """How often an attempt of any operation was repeated so far."""
        return self._retrier.retries

    def put(self, key: str, data: bytes) -> None:
        """Store a whole object (at most 5 GiB, the limit of one S3 put)."""
        request = self._put_request(key, data)
        self._call(lambda client: client.put_object(**request), key)

    def put_once(self, key: str, data: bytes) -> None:
        """Store an object if the key is free: a conditional put that carries an id of this call.

        "Taken" is also what the server says to the repetition of a put that it made but whose answer was lost; the
        id stored with the object tells the two apart.
        """
        write_id = uuid.uuid4().hex
        request = self._put_request(key, data)
        request["Metadata"][_WRITE_ID] = write_id
        self._call(lambda client: self._send_once(client, key, request, write_id), key)

    def _send_once(self, client: Any, key: str, request: dict[str, Any], write_id: str) -> None:
        try:
            client.put_object(**request, IfNoneMatch="*")
            return
        except ClientError as error:
            if not is_taken(error):
                raise
        stored = self._head(client, key)
        if stored is None:
            raise Transient("the key was taken and then free again")
        if stored["Metadata"].get(_WRITE_ID) != write_id:
            raise AlreadyExists(f"{self.url}/{key} is already there: it was written by somebody else")

    def get(self, key: str) -> bytes:
        """Read a whole object and check its CRC32C if it has one."""
        wrong: set[int] = set()

        def read(client: Any) -> bytes:
            reply = client.get_object(**self._place(key))
            with closing(reply["Body"]) as body:
                data: bytes = body.read()
            crc = google_crc32c.value(data)
            if reply["Metadata"].get(_CRC32C, f"{crc:08x}") == f"{crc:08x}":
                return data
            if crc in wrong:  # twice the same wrong bytes: stored so, not damaged on the way
                raise Corrupt(
                    f"{self.url}/{key} is damaged: its CRC32C is {crc:08x}, "
                    f"{reply['Metadata'][_CRC32C]} was stored with it"
                )
            wrong.add(crc)
            raise Transient("the bytes that came do not fit their checksum")

        return self._call(read, key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read exactly ``length`` bytes."""
        check_range(key, start, length)
        if length == 0:
            return b""  # S3 has no empty range
        return self._call(lambda client: self._read_range(client, key, start, length), key)

    def _read_range(self, client: Any, key: str, start: int, length: int) -> bytes:
        span = f"bytes={start}-{start + length - 1}"
        try:
            reply = client.get_object(**self._place(key), Range=span)
        except ClientError as error:
            if is_past_end(error):
                raise self._cut(key, start, length, "says that the object ends before") from error
            raise
        with closing(reply["Body"]) as body:
            given = reply.get("ContentRange", "no range")
            if not given.startswith(span.replace("=", " ") + "/"):
                raise self._cut(key, start, length, f"gave {given}")
            data: bytes = body.read()
        if len(data) != length:
            raise Transient(f"{len(data)} of {length} bytes came")
        return data

    def _cut(self, key: str, start: int, length: int, answer: str) -> Corrupt:
        return Corrupt(
            f"{self.url}/{key}: bytes {start} to {start + length} were expected, the server {answer}: "
            "the object was cut or replaced"
        )

    def info(self, key: str) -> ObjectInfo:
        """Look up an object."""

        def look(client: Any) -> ObjectInfo:
            stored = self._head(client, key)
            if stored is None:
                raise NotFound(f"there is no object {key} in {self.url}")
            return ObjectInfo(key, stored["ContentLength"])

        return self._call(look, key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Go through the objects whose key begins with ``prefix``, page by page."""
        start = self._prefix + check_prefix(prefix)
        page: dict[str, Any] = {"Bucket": self._bucket, "Prefix": start, "MaxKeys": _PAGE}
        while True:
            reply = self._list_page(page)
            for entry in reply.get("Contents", ()):
                yield ObjectInfo(entry["Key"].removeprefix(self._prefix), entry["Size"])
            if not reply.get("IsTruncated"):
                return
            page["ContinuationToken"] = reply["NextContinuationToken"]

    def _list_page(self, page: dict[str, Any]) -> dict[str, Any]:
        return self._call(lambda client: client.list_objects_v2(**page), page["Prefix"])

    def delete(self, key: str) -> None:
        """Remove an object; S3 answers the same whether it was there or not."""
        place = self._place(key)
        self._call(lambda client: client.delete_object(**place), key)

    def _head(self, client: Any, key: str) -> dict[str, Any] | None:
        try:
            reply: dict[str, Any] = client.head_object(**self._place(key))
        except ClientError as error:
            if not is_missing(error):
                raise
            if not self._retrier.reached:  # an answer to HEAD has no body that says whether key or bucket is missing
                client.head_bucket(Bucket=self._bucket)
            return None
        return reply

    def _place(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _put_request(self, key: str, data: bytes) -> dict[str, Any]:
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        crc = f"{google_crc32c.value(data):08x}"
        return {**self._place(key), "Body": data, "ContentMD5": md5, "Metadata": {_CRC32C: crc}}

    def _call(self, attempt: Callable[[Any], T], key: str) -> T:
        place = f"{self.url}/{key}"

        def translate() -> T:
            try:
                return attempt(self._client())
            except (ClientError, BotoCoreError, ResponseParserError) as error:
                raise translated(error, self._bucket, place) from error
            except HTTPError as error:  # botocore lets it through where the body of a refusal breaks off
                raise Transient(f"no good answer came ({type(error).__name__})") from error

        return self._retrier.call(translate, place)

    def _client(self) -> Any:
        """Give this process's client: a forked child must not share its parent's connections."""
        pid, client = self._client_of
        if pid == os.getpid():
            return client
        with self._lock:
            if self._client_of[0] != os.getpid():
                self._client_of = os.getpid(), _client(self._policy)
            return self._client_of[1]


def create_bucket(name: str, *, endpoint: str, access_key: str, secret_key: str) -> None:
    """Create a bucket on a server with given keys; one that is already ours is fine.

    Raises StoreError where the server refuses.
    """
    client = _client(
        RetryPolicy(), endpoint_url=endpoint, aws_access_key_id=access_key, aws_secret_access_key=secret_key,
        region_name="us-east-1",
    )  # fmt: skip
    try:
        client.create_bucket(Bucket=name)
    except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        return
    except (ClientError, BotoCoreError) as error:
        failure = translated(error, name, f"s3://{name}")
        raise failure if isinstance(failure, StoreError) else StoreError(str(failure)) from error
    finally:
        client.close()


@cache
def _loader() -> Any:
    """Give the descriptions of the AWS services, read once: a second client then costs 30 ms instead of 200."""
    return create_loader()


def _client(policy: RetryPolicy, **where: str) -> Any:
    own_server = where or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=policy.connect_timeout_s,
        read_timeout=policy.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": 1},  # ours alone, or the two would multiply
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        request_checksum_calculation="when_required",  # MD5 and our CRC32C instead: see S3Store
        response_checksum_validation="when_supported",
        s3={"addressing_style": "path"} if own_server else None,
    )
    try:
        session = botocore.session.Session()
        session.register_component("data_loader", _loader())
        return boto3.session.Session(botocore_session=session).client("s3", config=config, **where)
    except BotoCoreError as error:  # a profile that is not there, ...
        raise StoreError(f"the AWS settings cannot be used: {error}; check the AWS_* variables and ~/.aws") from error
    except ValueError as error:
        raise StoreError("the endpoint in AWS_ENDPOINT_URL is not a URL: expected http(s)://host:port") from error
