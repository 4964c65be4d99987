"""The S3 server of the test suite: real Ceph where it is installed, else the moto emulator."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra import local_s3
from infra.local_s3 import LocalS3

EMULATED = "some tests of S3 ran on an emulator or were left out; for the real server: apt-get install {}"


@dataclass(frozen=True)
class S3Server:
    """A server for the whole session; ``real`` says whether it checks signatures and checksums."""

    server: LocalS3
    real: bool

    @property
    def environment(self) -> dict[str, str]:
        return self.server.environment

    def create_bucket(self, name: str) -> str:
        return self.server.create_bucket(name)


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    packages = local_s3.missing_packages()
    if not packages:
        with local_s3.start(folder) as server:
            yield S3Server(server, real=True)
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI tests on the real S3 server: apt-get install {' '.join(packages)}")
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        yield S3Server(LocalS3(str(folder), f"http://{host}:{port}", "anyone", "anything"), real=False)
    finally:
        moto.stop()


def what_was_left_out() -> str | None:
    packages = local_s3.missing_packages()
    return EMULATED.format(" ".join(packages)) if packages else None
