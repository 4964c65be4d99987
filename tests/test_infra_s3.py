"""What S3 alone can refuse, and how that is told."""

import os
import pickle
import traceback

import pytest

from infra.errors import UsageError
from infra.store import (
    AccessDenied,
    NoSuchBucket,
    StoreError,
    Unreachable,
    open_store,
)


def test_a_bucket_that_is_not_there(s3_url: str) -> None:
    for action in (
        lambda store: store.put("a", b""),
        lambda store: store.put_once("a", b""),
        lambda store: store.get("a"),
        lambda store: store.info("a"),
        lambda store: list(store.list()),
    ):
        with pytest.raises(NoSuchBucket, match=r"no bucket nobody-made-it: create it"):
            action(open_store("s3://nobody-made-it/x"))


@pytest.mark.parametrize(
    ("variable", "advice"),
    [("AWS_ACCESS_KEY_ID", "check AWS_ACCESS_KEY_ID"), ("AWS_SECRET_ACCESS_KEY", "check AWS_SECRET_ACCESS_KEY")],
)
def test_wrong_credentials(s3_url: str, s3_server, variable: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not s3_server.real:
        pytest.skip("the emulator accepts any credentials")
    monkeypatch.setenv(variable, "CANARYCANARY")
    with pytest.raises(AccessDenied, match=advice) as caught:
        open_store(s3_url).put("a", b"")
    told = "".join(traceback.format_exception(caught.value))
    assert "CANARY" not in told
    assert s3_server.server.secret_key not in told
    with pytest.raises(AccessDenied, match="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store(s3_url).info("a")


def test_missing_credentials(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(AccessDenied, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store(s3_url).get("a")


def test_an_endpoint_that_is_not_there_is_told_soon(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SARSENSE_S3_DEADLINE_S", "1")
    with pytest.raises(Unreachable, match="check that the server is up and that AWS_ENDPOINT_URL"):
        open_store(s3_url).get("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost")
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL is not a URL"):
        open_store(s3_url).get("a")


@pytest.mark.parametrize("text", ["0", "-3", "soon", "inf", "nan"])
def test_a_deadline_must_be_a_time(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARSENSE_S3_DEADLINE_S", text)
    with pytest.raises(UsageError, match="SARSENSE_S3_DEADLINE_S"):
        open_store("s3://bucket/x")


def test_a_pickled_s3_store_holds_no_credentials(s3_url: str, s3_server) -> None:
    store = open_store(s3_url)
    store.put("a", b"1")
    pickled = pickle.dumps(store)
    assert s3_server.server.secret_key.encode() not in pickled
    assert s3_server.server.access_key.encode() not in pickled
    assert s3_server.server.secret_key not in repr(s3_server.server)


@pytest.mark.parametrize("count", [5, 6, 7])
def test_lists_longer_than_a_page(s3_url: str, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("infra.s3._PAGE", 3)
    store = open_store(s3_url)
    keys = [f"x/{n} &+%" for n in range(count)]
    for key in keys:
        store.put(key, b"")
    assert [found.key for found in store.list("x/")] == keys
