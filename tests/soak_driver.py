"""Processes for tests to kill: forked from a server that has loaded everything once, so that a start costs nothing."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.store import open_store
from shards.heads import take_head


def die_before_step(step: int) -> None:
    """Kill this process, as by kill -9, when it is about to give a file its name for the ``step``-th time."""
    left = step

    def hook(event: str, arguments: object) -> None:
        nonlocal left
        if event in ("os.rename", "os.link"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def be_overtaken(url: str) -> None:
    """Let another writer publish, with its report, at the last moment: when this process has looked and begins to."""
    overtaken = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal overtaken
        if event == "os.link" and "/manifests/" in str(arguments[1]) and not overtaken:
            overtaken = True
            store = open_store(url)
            take_head(store, 1, "f" * 64, None)
            store.put("report.html", b"of the other one")
            store.put("quarantine/other.json", b"{}")

    sys.addaudithook(hook)


class Drivers:
    """Runs ``ingest`` command lines, each in a process of its own; a context that ends what is left of them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        # A process of its own: Ray reads the token when it is imported.
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            env=os.environ | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, arguments: Sequence[str], log: Path, step: int | None = None, overtaken: str | None = None) -> int:
        """Start ``ingest`` with its output in a file; give its process id.

        ``step`` is where it is to die, ``overtaken`` the corpus that another writer is to publish first.
        """
        told = {"do": "start", "arguments": list(arguments), "log": str(log), "step": step, "overtaken": overtaken}
        return int(self._ask(told))

    def code(self, pid: int) -> int | None:
        """Give the exit code of a process, None while it runs; a signal is a negative one."""
        found = self._ask({"do": "code", "pid": pid})
        return None if found is None else int(found)

    def wait(self, pid: int, within_s: float = 180.0) -> int:
        """Give the exit code of a process when it has ended."""
        end = time.monotonic() + within_s
        while (code := self.code(pid)) is None:
            assert time.monotonic() < end, f"process {pid} still runs after {within_s} s"
            time.sleep(0.02)
        return code

    def run(self, arguments: Sequence[str], log: Path, step: int | None = None) -> int:
        """Run ``ingest`` to its end."""
        return self.wait(self.start(arguments, log, step))

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()


def _child(request: dict[str, Any]) -> None:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if request["step"] is not None:
        die_before_step(request["step"])
    if request["overtaken"] is not None:
        be_overtaken(request["overtaken"])
    from infra.command import exit_code
    from ingest.cli import app

    code = 1
    try:
        code = exit_code(app, request["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _serve() -> None:
    import matplotlib.pyplot  # noqa: F401  (what a build loads late is loaded here, once)

    import infra.s3  # noqa: F401
    import ingest.build
    import ingest.cli  # noqa: F401

    running: dict[int, int | None] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            answer: int | None = os.fork()
            if answer == 0:
                _child(request)
            running[answer or 0] = None
        else:
            answer = running[request["pid"]]
            if answer is None and (ended := os.waitpid(request["pid"], os.WNOHANG)) != (0, 0):
                answer = running[request["pid"]] = os.waitstatus_to_exitcode(ended[1])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid, code in running.items():
        if code is None:
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
