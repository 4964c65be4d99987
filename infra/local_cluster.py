"""A Ray cluster of several nodes on this machine, as a rehearsal of a real one: tokens on, loopback only."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.errors import ResourceError, UsageError
from infra.ports import free_port, port_block

_STATE = "cluster.json"
_ATTEMPTS = 3
_WORKER_PORTS = 500  # of a node: a worker takes one, and ports are free again only some time after it ends


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """A running cluster: address for drivers, dashboard URL for jobs, token, and one process group per node."""

    folder: str
    address: str
    dashboard: str
    token: str
    nodes: tuple[int, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to connect to this cluster."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_ADDRESS": self.address}

    def kill_node(self, number: int) -> None:
        """Kill one node with everything on it, as a power cut would."""
        _kill(self.nodes[number], patience_s=0.0)

    def stop(self) -> None:
        """End every node and drop what Ray wrote outside the folder."""
        for pid in reversed(self.nodes):
            _kill(pid)
        shutil.rmtree(_ray_folder(self.address), ignore_errors=True)
        (Path(self.folder) / _STATE).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def start(folder: Path, *, nodes: int = 2, cpus: int = 1, environment: Mapping[str, str] | None = None) -> LocalCluster:
    """Start ``nodes`` Ray nodes with ``cpus`` CPUs each; logs and state go to ``folder``.

    Raises UsageError where a cluster already runs from that folder, ResourceError where a node does not come up.
    """
    if (folder / _STATE).exists():
        raise UsageError(f"a cluster is already running from {folder}: stop it first (infra cluster stop {folder})")
    folder.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(32)
    variables = _variables(token) | dict(environment or {})
    for attempt in range(_ATTEMPTS):
        try:
            address, dashboard, pids = _start_nodes(folder, nodes, cpus, variables)
            break
        except ResourceError:  # another program may have taken a port between its choice and its use
            if attempt == _ATTEMPTS - 1:
                raise
    cluster = LocalCluster(str(folder), address, dashboard, token, pids)
    state = folder / _STATE
    state.touch(mode=0o600)
    state.write_text(json.dumps(asdict(cluster)))
    return cluster


def add_node(cluster: LocalCluster, *, cpus: int = 1, environment: Mapping[str, str] | None = None) -> LocalCluster:
    """Start one more node, as a cloud replaces one that it took away; gives the cluster with it as the last node.

    Raises ResourceError where it does not come up.
    """
    variables = _variables(cluster.token) | dict(environment or {})
    number = len(cluster.nodes)
    pid = _start_node(Path(cluster.folder), number, cpus, variables, cluster.address, port_block(_WORKER_PORTS))
    larger = replace(cluster, nodes=(*cluster.nodes, pid))
    (Path(cluster.folder) / _STATE).write_text(json.dumps(asdict(larger)))
    return larger


def _start_nodes(folder: Path, nodes: int, cpus: int, variables: Mapping[str, str]) -> tuple[str, str, tuple[int, ...]]:
    """Start all nodes on ports of their own, or none; give the address, the dashboard's URL and the process ids."""
    gcs, dashboard = free_port(), free_port()
    address = f"127.0.0.1:{gcs}"
    worker_ports = port_block(_WORKER_PORTS * nodes)
    started: list[int] = []
    try:
        for number in range(nodes):
            low = worker_ports + _WORKER_PORTS * number
            started.append(
                _start_node(folder, number, cpus, variables, address, low, dashboard if number == 0 else None)
            )
    except BaseException:
        for pid in started:
            _kill(pid)
        raise
    return address, f"http://127.0.0.1:{dashboard}", tuple(started)


def _start_node(
    folder: Path, number: int, cpus: int, variables: Mapping[str, str], address: str, low: int, head: int | None = None
) -> int:
    """Start a node whose workers take ports from ``low`` up, the head one with its dashboard at port ``head``."""
    gcs = int(address.rpartition(":")[2])
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1",
        f"--num-cpus={cpus}", f"--min-worker-port={low}", f"--max-worker-port={low + _WORKER_PORTS - 1}",
        f"--object-store-memory={256 << 20}", "--disable-usage-stats",
        # The default port is one for the whole machine: a second node's agent would get no jobs.
        f"--dashboard-agent-listen-port={free_port()}",
        *([f"--address={address}"] if head is None else _head(address, gcs, head)),
    ]  # fmt: skip
    log = folder / f"node-{number}.log"
    pid = _spawn(command, variables, log)
    try:
        _wait_for(gcs, head, pid, log)
    except BaseException:
        _kill(pid)
        raise
    return pid


def _head(address: str, gcs: int, dashboard: int) -> list[str]:
    ports = [f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    return ["--head", *ports, f"--temp-dir={_ray_folder(address)}"]


def _ray_folder(address: str) -> str:
    """Give the folder of Ray's sockets: their paths must stay below 108 characters."""
    return f"/tmp/sarsense-ray-{address.rpartition(':')[2]}"  # noqa: S108


def _variables(token: str) -> dict[str, str]:
    """Give what nodes need to know: the token, our commands, and that they share the cores of one machine."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return inherited | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",  # a job that is stopped has this long for its last checkpoint, not 3 s
        "OMP_WAIT_POLICY": "PASSIVE",
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }


def running(folder: Path) -> LocalCluster:
    """Find the cluster that was started from a folder. Raises UsageError where there is none."""
    try:
        state = json.loads((folder / _STATE).read_text())
    except FileNotFoundError:
        raise UsageError(f"no cluster runs from {folder}: start one with: infra cluster start {folder}") from None
    return LocalCluster(**{**state, "nodes": tuple(state["nodes"])})


def _spawn(command: list[str], variables: Mapping[str, str], log: Path) -> int:
    """Start a process in a session of its own, with its output in a file; it outlives this one."""
    to_log = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    errors_too = (os.POSIX_SPAWN_DUP2, 1, 2)
    return os.posix_spawn(command[0], command, variables, setsid=True, file_actions=[to_log, errors_too])


def _wait_for(gcs: int, dashboard: int | None, pid: int, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            break
        # A worker node says so itself; the head is up when both its ports answer.
        if dashboard is None:
            if "Ray runtime started" in log.read_text():
                return
        elif _answers(gcs) and _answers(dashboard):
            return
        time.sleep(0.2)
    raise ResourceError(f"a Ray node did not come up in 90 s; its log is {log}: {log.read_text()[-500:]}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _kill(pid: int, patience_s: float = 5.0) -> None:
    try:
        if patience_s:
            os.killpg(pid, signal.SIGTERM)
        for _ in range(round(patience_s * 10)):
            os.killpg(pid, 0)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.1)
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
