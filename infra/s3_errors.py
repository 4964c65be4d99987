"""What S3 servers and the network say, sorted into what passes, what does not, and what to do then."""

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from botocore.parsers import ResponseParserError

from infra.objects import AccessDenied, Full, NoSuchBucket, NotFound, StoreError
from infra.retry import Transient

_BAD_WEATHER = (
    ConnectionError, FlexibleChecksumError, HTTPClientError, IncompleteReadError, ResponseParserError,
    ResponseStreamingError,
)  # fmt: skip
_PASSING = {
    "BadDigest", "IncompleteBody", "InternalError", "OperationAborted", "RequestTimeout", "SlowDown", "Throttling",
    "ThrottlingException", "TooManyRequests", "XAmzContentSHA256Mismatch", "ConditionalRequestConflict",
    "ConcurrentModification",
}  # fmt: skip
_ADVICE = {
    "InvalidAccessKeyId": "the server does not know the access key: check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key does not fit the access key: check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the credentials have expired: renew them",
    "InvalidToken": "the session token is not valid: check or unset AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock and the server's differ too much: set the clock",
}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity"}


def is_taken(error: ClientError) -> bool:
    """Say whether a conditional put was refused because the key is taken."""
    return _code(error) == "PreconditionFailed" or _status(error) == 412


def is_missing(error: ClientError) -> bool:
    """Say whether an object (or its bucket) is not there."""
    return _status(error) == 404


def is_past_end(error: ClientError) -> bool:
    """Say whether a range was refused because the object ends before it."""
    return _code(error) == "InvalidRange" or _status(error) == 416


def translated(
    error: ClientError | BotoCoreError | ResponseParserError, bucket: str, place: str
) -> StoreError | Transient:
    """Give what a failed request at ``place`` means: Transient where another attempt may do, else a StoreError.

    No message repeats what the server or the library said in words: that can hold keys and signatures.
    """
    if isinstance(error, ClientError):
        return _refused(_code(error), _status(error), bucket, place)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return AccessDenied(
            f"no complete credentials for {place}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, _BAD_WEATHER):
        return Transient(f"no good answer came ({type(error).__name__})")
    return StoreError(f"{place} failed with {type(error).__name__}: check the AWS_* variables and ~/.aws")


def _refused(code: str, status: int, bucket: str, place: str) -> StoreError | Transient:
    if code in _PASSING or status in (408, 409, 429) or (status >= 500 and status not in (501, 507)):
        return Transient(f"the server answered {status} {code}")
    if code in _ADVICE:
        return AccessDenied(f"{place} is refused: {_ADVICE[code]}")
    if code == "NoSuchBucket" or (code != "NoSuchKey" and status == 404):
        return NoSuchBucket(f"there is no bucket {bucket}: create it, or check its name and AWS_ENDPOINT_URL")
    if code == "NoSuchKey":
        return NotFound(f"there is no object {place}")
    if code in _WRONG_REGION or status in (301, 307):
        return StoreError(f"the bucket {bucket} lies in another region: set AWS_DEFAULT_REGION to it")
    if status == 403 and code in ("", "403"):  # an answer to HEAD has no body that says more
        return AccessDenied(
            f"{place} is refused (403): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            f"and that they may list, read and write the bucket {bucket}"
        )
    if status in (401, 403):
        return AccessDenied(
            f"{place} is refused ({status} {code}): the credentials are valid but lack the right; "
            f"allow them to list, read and write the bucket {bucket}"
        )
    if status == 507 or code in _FULL:
        return Full(f"{place} cannot be written: the server has no room left ({status} {code})")
    if code == "EntityTooLarge":
        return StoreError(
            f"{place} cannot be written: it is larger than one put may be (5 GiB); make the shards smaller"
        )
    if status == 501:
        return StoreError(
            f"the server cannot do what {place} needs ({code}): it must support conditional puts (If-None-Match)"
        )
    return StoreError(f"{place} failed: the server answered {status} {code}")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
