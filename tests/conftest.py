"""What all tests share: where the real products are, and a running S3 server."""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import S3Server, what_was_left_out
from s3_server import s3_server as running_s3_server

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands do, before torch is loaded

S3_FOLDER = "s3-of-the-session"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real products beside the repository; absent on a user's machine, required in CI."""
    folder = Path(os.environ.get("SARSENSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the real products are not at {folder}: set SARSENSE_DATA to their folder")
        pytest.skip(f"no real products at {folder}: set SARSENSE_DATA to their folder to run this test")
    return folder


@pytest.fixture(scope="module", autouse=True)
def folders_go_with_their_file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Remove what a file's shared fixtures wrote once its tests have passed, as pytest does for ``tmp_path`` alone."""
    base, failed = tmp_path_factory.getbasetemp(), request.session.testsfailed
    before = set(base.iterdir())
    yield
    if request.session.testsfailed == failed:
        for folder in set(base.iterdir()) - before:
            if not folder.name.startswith(S3_FOLDER):
                shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server (Ceph), started when the first test asks for it; an emulator where Ceph is not installed."""
    with running_s3_server(tmp_path_factory.mktemp(S3_FOLDER)) as server:
        yield server


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a fresh bucket, with the AWS variables set that lead to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.create_bucket(f"test-{uuid.uuid4().hex[:12]}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out and how to enable it."""
    if line := what_was_left_out():
        terminalreporter.write_line(line)
