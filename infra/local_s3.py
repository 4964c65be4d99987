"""A real S3 server on this machine's loopback: Ceph's monitor, OSD and gateway, one each."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from infra.errors import ResourceError, UsageError
from infra.ports import free_port, is_free

_STATE = "s3.json"
_CONFIG = "ceph.conf"
_START_S = 90.0
_PROGRAMS = {  # program: Debian package
    "ceph": "ceph-common",
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "monmaptool": "ceph-base",
    "radosgw": "radosgw",
    "radosgw-admin": "ceph-common",
}
# No authentication between the daemons: they listen on 127.0.0.1 only, and S3's own keys guard the data. Sockets,
# pools and proposals are set for one node that must be up in a second or two. The admin sockets are off because
# their paths may not exceed 107 characters. A client that asks before the OSD is up asks again at its next tick,
# which is 5 s away by default.
_TEMPLATE = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{monitor_port}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
run dir = {folder}
log file = {folder}/log/$name.log
pid file = {folder}/$name.pid
admin socket =
objecter tick interval = 0.3
[mon]
mon data = {folder}/mon
mon cluster log file = {folder}/log/cluster.log
mon data avail crit = 1
mon pg warn min per osd = 0
mon max pg per osd = 1000
paxos propose interval = 0.02
paxos min wait = 0.01
[osd]
osd data = {folder}/osd
osd objectstore = {backend}
memstore device bytes = {capacity}
bluestore block size = {capacity}
bluestore fsck on mount = false
osd memory target = 1073741824
osd class load list = *
ms mon client mode = crc
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
ms mon client mode = crc
auth client required = none
rgw enable usage log = false
rgw dynamic resharding = false
rgw run sync thread = false
rgw enable quota threads = false
"""


@dataclass(frozen=True, slots=True)
class LocalS3:
    """A running server: where it is, the keys of its one user, and the process ids of its daemons."""

    folder: str
    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    pids: tuple[int, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """The AWS variables with which any S3 client finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def create_bucket(self, name: str) -> str:
        """Create a bucket, or find it there already, and give its URL."""
        from infra.s3 import create_bucket

        create_bucket(name, endpoint=self.endpoint, access_key=self.access_key, secret_key=self.secret_key)
        return f"s3://{name}"

    def stop(self) -> None:
        """End all daemons and drop the data; the logs stay. Stopping twice is fine."""
        _kill_all(self.pids, Path(self.folder))
        _clear(Path(self.folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def missing_packages() -> list[str]:
    """Give the Debian packages that must be installed before ``start`` can work; none is the good answer."""
    return sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})


def start(
    folder: Path, port: int = 0, *, detached: bool = False, on_disk: bool = False, capacity_gib: int = 8
) -> LocalS3:
    """Start an empty server on a port of 127.0.0.1 (0: any free one), with its files and logs in ``folder``.

    The daemons die with the thread that started them, even by SIGKILL, unless ``detached``: then they run until
    :func:`stop`.
    Objects live in memory, or in a file with ``on_disk``; they are gone after the stop either way.
    Raises UsageError where a server runs from this folder or the folder holds something else, ResourceError where
    Ceph is not installed or does not come up.
    """
    if packages := missing_packages():
        raise ResourceError(
            f"a local S3 server needs Ceph, which is not installed: apt-get install {' '.join(packages)}"
        )
    folder = folder.resolve()
    _prepare(folder)
    if port and not is_free(port):
        raise UsageError(f"port {port} of 127.0.0.1 is taken: choose another, or 0 for any free one")
    monitor_port, port = free_port(), port or free_port()
    backend = "bluestore" if on_disk else "memstore"
    text = _TEMPLATE.format(
        fsid=uuid.uuid4(),
        folder=folder,
        monitor_port=monitor_port,
        port=port,
        backend=backend,
        capacity=capacity_gib << 30,
    )
    (folder / _CONFIG).write_text(text)
    launch = _Launch(folder, detached)
    try:
        server = _start_daemons(launch, monitor_port, port)
    except BaseException:
        _kill_all(launch.pids, folder)
        raise
    state = folder / _STATE
    state.touch(mode=0o600)
    state.write_text(json.dumps(asdict(server)))
    return server


def running(folder: Path) -> LocalS3:
    """Find the server that runs from a folder. Raises UsageError where there is none."""
    try:
        server = LocalS3(**json.loads((folder / _STATE).read_text()))
    except FileNotFoundError:
        server = None
    if server is None or not any(_alive(pid, folder.resolve()) for pid in server.pids):
        raise UsageError(f"no S3 server runs from {folder}: start one there first")
    return server


def stop(folder: Path) -> None:
    """End the server that was started from a folder, by this process or another.

    Raises UsageError where none runs.
    """
    running(folder).stop()


class _Launch:
    """Runs Ceph programs with the configuration of one folder and remembers the daemons among them."""

    def __init__(self, folder: Path, detached: bool) -> None:
        self.folder = folder
        self.pids: list[int] = []
        self._detached = detached
        # The caller's Python or Ceph settings would misguide the system's own tools.
        self._variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CEPH", "LD_"))}

    def tool(self, *command: str) -> None:
        log = self.folder / "log" / "tools.log"
        with log.open("ab") as output:
            try:
                subprocess.run(
                    [command[0], "-c", str(self.folder / _CONFIG), *command[1:]], check=True, timeout=_START_S,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._variables,
                )  # fmt: skip
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                raise ResourceError(
                    f"the local S3 server did not start: {command[0]} failed; {self._last(log)}"
                ) from error

    def daemon(self, program: str, name: str, *arguments: str) -> None:
        if self._detached:
            self.tool(program, *arguments)  # goes to the background by itself once it is up
            self.pids.append(int((self.folder / f"{name}.pid").read_text()))
            return
        tie = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command = [*tie, program, "-c", str(self.folder / _CONFIG), "-f", *arguments]
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            # posix_spawn, not Popen: the child outlives any object that stands for it, and stop() waits for it by pid.
            pid = os.posix_spawnp(
                command[0], command, self._variables, setsid=True,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
                ],
            )  # fmt: skip
        self.pids.append(pid)

    def wait_for(self, endpoint: str) -> None:
        opener = build_opener(ProxyHandler({}))  # never through a proxy to loopback
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                opener.open(endpoint, timeout=2).close()
                return
            except (URLError, OSError):
                if not all(_alive(pid, self.folder) for pid in self.pids):
                    break
                time.sleep(0.05)
        raise ResourceError(f"the local S3 server did not start; {self._last(self.folder / 'log' / 'client.rgw.log')}")

    def _last(self, log: Path) -> str:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return f"{log} ends with: {' | '.join(lines[-3:])}"


def _start_daemons(launch: _Launch, monitor_port: int, port: int) -> LocalS3:
    folder, config = launch.folder, str(launch.folder / _CONFIG)
    map_path, osd_id = str(folder / "monmap"), str(uuid.uuid4())
    address = f"[v2:127.0.0.1:{monitor_port}]"
    launch.tool("monmaptool", "--create", "--clobber", "--addv", "a", address, map_path, "--fsid", _fsid(config))
    launch.tool("ceph-mon", "--mkfs", "-i", "a", "--monmap", map_path)
    launch.daemon("ceph-mon", "mon.a", "-i", "a")
    launch.tool("ceph", "osd", "new", osd_id)
    launch.tool("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_id)
    launch.daemon("ceph-osd", "osd.0", "-i", "0")
    access_key, secret_key = secrets.token_hex(10).upper(), secrets.token_hex(20)
    launch.tool(
        "radosgw-admin", "user", "create", "--uid", "sarsense", "--display-name", "sarsense",
        "--access-key", access_key, "--secret-key", secret_key,
    )  # fmt: skip
    launch.daemon("radosgw", "client.rgw", "-n", "client.rgw")
    endpoint = f"http://127.0.0.1:{port}"
    launch.wait_for(endpoint)
    return LocalS3(str(folder), endpoint, access_key, secret_key, tuple(launch.pids))


def _fsid(config: str) -> str:
    return Path(config).read_text().split("fsid = ")[1].split()[0]


def _prepare(folder: Path) -> None:
    if not re.fullmatch(r"[\w /.+=@~-]+", str(folder)):
        raise UsageError(f"Ceph cannot take {folder}: choose a folder with letters, digits, spaces and /.+=@~-_ only")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / _CONFIG).exists():
        raise UsageError(f"{folder} holds other files: choose a new folder for the S3 server")
    try:
        server = running(folder)
    except UsageError:
        _clear(folder)
    else:
        raise UsageError(f"an S3 server already runs from {folder} at {server.endpoint}: stop it first")
    shutil.rmtree(folder / "log", ignore_errors=True)
    for name in ("mon", "osd", "rgw", "log"):
        (folder / name).mkdir(exist_ok=True)


def _clear(folder: Path) -> None:
    for name in ("mon", "osd", "rgw"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in [folder / "monmap", folder / _STATE, *folder.glob("*.pid")]:
        path.unlink(missing_ok=True)


def _alive(pid: int, folder: Path) -> bool:
    """Say whether a daemon of this folder lives: process numbers are used again, except those of our own children."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:  # detached, or started by another process
        pass
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(folder / _CONFIG) in arguments


def _kill_all(pids: Sequence[int], folder: Path) -> None:
    for pid in pids:
        if _alive(pid, folder):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(_alive(pid, folder) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
