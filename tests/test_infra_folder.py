"""What the folder store alone promises: rights, room, and whole files whatever happens."""

import errno
import os
import resource
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.store import (
    AccessDenied,
    Full,
    StoreError,
    open_store,
)


def test_files_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        store = open_store(str(tmp_path))
        store.put("shards/a", b"")
        store.put_once("shards/b", b"")
    finally:
        os.umask(old)
    for name in ("a", "b"):
        assert stat.S_IMODE((tmp_path / "shards" / name).stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "shards").stat().st_mode) == 0o750


def test_half_written_files_are_not_objects(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"1")
    (tmp_path / ".sarsense-0123.part").write_bytes(b"half")
    assert [found.key for found in store.list()] == ["a"]


def test_a_writer_killed_at_any_moment_leaves_whole_objects_only(tmp_path: Path) -> None:
    script = (
        "import sys; from infra.store import open_store\n"
        "store = open_store(sys.argv[1]); n = 0\n"
        "print('go', flush=True)\n"
        "while True: store.put(f'x/{n % 3}', bytes([n % 256]) * 3_000_000); n += 1"
    )
    store = open_store(str(tmp_path / "corpus"))
    for pause_s in (0.0, 0.003, 0.011, 0.023):
        command = [sys.executable, "-c", script, str(tmp_path / "corpus")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            threading.Event().wait(pause_s)
            writer.kill()
        for found in store.list():
            assert len(set(store.get(found.key))) == 1
            assert found.size == 3_000_000


def test_a_key_cannot_continue_a_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"1")
    store.put("d/e", b"1")
    for action in (store.put, store.put_once):
        for key in ("a/b", "a/b/c", "d"):
            with pytest.raises(StoreError, match="another key"):
                action(key, b"2")
    assert [found.key for found in store.list()] == ["a", "d/e"]


@pytest.fixture
def folder_of_another_user() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can try out another user's rights: run the tests as root to include this one")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "object").write_bytes(b"1")
        (folder / "secret").mkdir(mode=0o700)
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)


def test_a_folder_without_rights_is_named(folder_of_another_user: Path) -> None:
    store = open_store(str(folder_of_another_user))
    assert store.get("object") == b"1"
    for action in (
        lambda: store.put("new", b"1"),
        lambda: store.put("new/er", b"1"),
        lambda: store.put_once("new", b"1"),
        lambda: store.delete("object"),
        lambda: store.get("secret/a"),
        lambda: list(store.list("secret/")),
    ):
        with pytest.raises(AccessDenied, match=str(folder_of_another_user)):
            action()
    assert sorted(path.name for path in folder_of_another_user.iterdir()) == ["object", "secret"]


def test_a_full_disk_leaves_nothing_half(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # the same path as a full disk, without one
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        for action in (store.put, store.put_once):
            with pytest.raises(Full, match="free some space"):
                action("a", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert store.get("a") == b"before"


def test_a_full_file_system_leaves_nothing_half(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk is not allowed here: run the tests as root with the right to mount")
    try:
        store = open_store(str(tmp_path))
        with pytest.raises(Full, match=os.strerror(errno.ENOSPC)):
            store.put("a", bytes(2_000_000))
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
