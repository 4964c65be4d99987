"""Send a command of this project to a running Ray cluster as a job, and follow it."""

import os
import shlex
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient

from infra.errors import ResourceError, UsageError

_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
_DASHBOARD_VARIABLE = "RAY_API_SERVER_ADDRESS"
_COMMANDS = ("ingest", "shards", "pretrain", "finetune", "infra")


def submit(dashboard: str, command: Sequence[str], *, wait: bool = True, insecure: bool = False) -> str:
    """Run ``command`` on the cluster behind the dashboard URL; gives the job's id.

    With ``wait`` the job's log is copied to stderr until it ends. Credentials are never sent along: the nodes
    carry their own. Raises UsageError for a command that is not of this project, ResourceError where the cluster
    cannot be reached, takes jobs from anybody (and not ``insecure``), or the job fails.
    """
    if not command or command[0] not in _COMMANDS:
        raise UsageError(
            f"what to submit starts with one of {', '.join(_COMMANDS)}; got {shlex.join(command) or 'nothing'}"
        )
    if not insecure:
        _refuse_open_cluster(dashboard)
    try:
        client = _client(dashboard)
        job = _submit(client, shlex.join(command))
    except (RuntimeError, ConnectionError, RayError) as error:
        raise ResourceError(f"the cluster at {dashboard} refused the job: {error}") from error
    sys.stderr.write(f"submitted {job} to {dashboard}\n")
    if wait:
        _follow(client, job)
    return job


def _submit(client: Any, entrypoint: str) -> str:
    """Hand the job over; a cluster that has only just come up has nobody to take it for some seconds."""
    for _ in range(15):
        try:
            return str(client.submit_job(entrypoint=entrypoint))
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            time.sleep(2.0)
    return str(client.submit_job(entrypoint=entrypoint))


def _client(dashboard: str) -> Any:
    # Ray prefers its variables to its argument, and RAY_ADDRESS is not a dashboard.
    before = os.environ.get(_DASHBOARD_VARIABLE)
    os.environ[_DASHBOARD_VARIABLE] = dashboard
    try:
        return JobSubmissionClient(dashboard)
    finally:
        os.environ.pop(_DASHBOARD_VARIABLE)
        if before is not None:
            os.environ[_DASHBOARD_VARIABLE] = before


def _refuse_open_cluster(dashboard: str) -> None:
    """Jobs run any code: a cluster that answers without a token must not be used by mistake."""
    if not dashboard.startswith(("http://", "https://")):
        raise UsageError(f"the dashboard's address is a URL like http://127.0.0.1:8265; got {dashboard!r}")
    try:
        urllib.request.urlopen(f"{dashboard}/api/version", timeout=10)  # noqa: S310  (scheme checked above)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return
        raise ResourceError(f"the dashboard at {dashboard} answered HTTP {error.code}") from error
    except OSError as error:
        raise ResourceError(f"no Ray dashboard at {dashboard}: {error}; is the cluster up?") from error
    raise ResourceError(
        f"the cluster at {dashboard} takes jobs from anybody who reaches it: start its nodes with RAY_AUTH_MODE=token,"
        " or pass --insecure on a machine that only you can reach"
    )


def _follow(client: Any, job: str) -> None:
    shown = 0
    while True:
        status = str(client.get_job_status(job).value)
        log = client.get_job_logs(job)
        sys.stderr.write(log[shown:])
        sys.stderr.flush()
        shown = len(log)
        if status in _ENDED:
            break
        time.sleep(1.0)
    if status != "SUCCEEDED":
        reason = (client.get_job_info(job).message or "").strip().splitlines() or ["see its log above"]
        raise ResourceError(f"job {job} ended as {status}: {reason[-1]}")
