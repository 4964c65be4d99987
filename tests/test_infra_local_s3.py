"""The starter of a real S3 server: what it starts it ends, and it says what it lacks."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import local_s3
from infra.errors import ResourceError, UsageError
from infra.store import open_store


@pytest.fixture
def ceph() -> None:
    if packages := local_s3.missing_packages():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI tests the real S3 server: apt-get install {' '.join(packages)}")
        pytest.skip(f"no Ceph here: apt-get install {' '.join(packages)}")


def _use(server: local_s3.LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(server.create_bucket("corpus"))
    store.put("a", b"1" * 5000)
    assert store.get("a") == b"1" * 5000


def _daemons(folder: Path) -> list[bytes]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder / "ceph.conf") in line:
            found.append(line)
    return found


@pytest.mark.usefixtures("ceph")
def test_a_detached_server_lives_until_it_is_stopped_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a folder with a longer name than the path of a socket may have" / ("x" * 60)
    script = (
        "import sys; from pathlib import Path; from infra import local_s3\n"
        "local_s3.start(Path(sys.argv[1]), detached=True)"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, cwd=Path(__file__).parents[1])
    try:
        server = local_s3.running(folder)
        _use(server, monkeypatch)
        assert len(_daemons(folder)) == 3
        assert (folder / "s3.json").stat().st_mode & 0o077 == 0
        with pytest.raises(UsageError, match="already runs"):
            local_s3.start(folder)
    finally:
        local_s3.stop(folder)
    assert _daemons(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == ["ceph.conf", "log"]
    with pytest.raises(UsageError, match="no S3 server runs"):
        local_s3.stop(folder)


@pytest.mark.usefixtures("ceph")
def test_a_server_dies_with_its_starter(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from infra import local_s3\n"
        "local_s3.start(Path(sys.argv[1])); print('up', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"up\n"
        assert len(_daemons(tmp_path)) == 3
        starter.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while _daemons(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _daemons(tmp_path) == []


@pytest.mark.parametrize("on_disk", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("ceph")
def test_a_server_starts_again_from_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool
) -> None:
    for _ in range(2):
        with local_s3.start(tmp_path, on_disk=on_disk) as server:
            _use(server, monkeypatch)
        server.stop()
    assert _daemons(tmp_path) == []


@pytest.mark.usefixtures("ceph")
def test_a_port_that_is_taken_is_a_clear_failure_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 is taken"):
            local_s3.start(tmp_path, port)
    assert _daemons(tmp_path) == []


@pytest.mark.usefixtures("ceph")
def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years")
    with pytest.raises(UsageError, match="holds other files"):
        local_s3.start(tmp_path)
    with pytest.raises(UsageError, match="Ceph cannot take"):
        local_s3.start(tmp_path / "a,b")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_without_ceph_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="apt-get install ceph-base ceph-common ceph-mon ceph-osd radosgw"):
        local_s3.start(tmp_path / "s3")
    assert not (tmp_path / "s3").exists()
