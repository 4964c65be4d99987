"""What is set aside is named with its bytes; a limit of failures is a number or a share."""

import hashlib
from pathlib import Path

import pytest

from infra.errors import UsageError
from infra.store import open_store
from ingest.catalog import Product, Unit
from ingest.quarantine import content_digest, failures_allowed, rejected, unexpected, write_quarantine
from ingest.scene import SceneRejected


def test_the_digest_is_that_of_the_file_or_of_all_files(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(b"scene" * 1000)
    plain = hashlib.sha256(b"scene" * 1000).hexdigest()
    assert content_digest(str(file)) == plain
    assert content_digest(f"{file}#IW1") == plain
    folder = tmp_path / "b.SAFE"
    (folder / "x").mkdir(parents=True)
    (folder / "x/2").write_bytes(b"two")
    (folder / "1").write_bytes(b"")
    lines = f"1\0{hashlib.sha256().hexdigest()}\nx/2\0{hashlib.sha256(b'two').hexdigest()}\n"
    assert content_digest(str(folder)) == hashlib.sha256(lines.encode()).hexdigest()
    assert content_digest(str(tmp_path / "nothing")) is None
    assert content_digest("s3://bucket/S1A_X.SAFE") is None


def test_a_reject_says_all_that_a_reader_needs(tmp_path: Path) -> None:
    path = tmp_path / "S1A_X.zip"
    path.write_bytes(b"x")
    product = Product(sensor="sentinel-1", path=str(path))
    found = rejected(product, "open", SceneRejected("why"))
    digest = hashlib.sha256(b"x").hexdigest()
    assert found == {"source": "S1A_X", "stage": "open", "kind": "SceneRejected", "reason": "why", "sha256": digest}
    fault = unexpected(Unit("S1A_X", (product,)), ValueError("odd"))
    assert (fault["stage"], fault["kind"], fault["reason"], fault["sha256"]) == ("work", "ValueError", "odd", digest)
    assert "ValueError: odd" in fault["trace"]


@pytest.mark.parametrize(
    ("limit", "sources", "allowed"),
    [("5%", 1000, 50), ("3.7%", 1000, 37), ("0%", 9, 0), ("100%", 9, 9), ("12", 5, 12), (" 0 ", 5, 0), ("5%", 19, 0)],
)
def test_limits(limit: str, sources: int, allowed: int) -> None:
    assert failures_allowed(limit, sources) == allowed


@pytest.mark.parametrize("limit", ["", "-1", "5 percent", "101%", "0.5", "nan%"])
def test_what_is_no_limit_is_refused(limit: str) -> None:
    with pytest.raises(UsageError, match="expected a number of sources or a share"):
        failures_allowed(limit, 10)


def test_what_is_good_now_is_taken_back_only_when_all_was_looked_at() -> None:
    store = open_store("memory://quarantine")
    first, second = ({"source": name, "stage": "open", "kind": "K", "reason": "r"} for name in "ab")
    write_quarantine(store, [first, second], forget=True)
    write_quarantine(store, [second], forget=False)
    assert len(list(store.list("quarantine/"))) == 2
    write_quarantine(store, [second], forget=True)
    assert len(list(store.list("quarantine/"))) == 1
