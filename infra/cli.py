"""The ``infra`` command: rehearsal servers on this machine, and jobs on a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from infra.command import command_app, run, say

if TYPE_CHECKING:
    from infra.local_cluster import LocalCluster

_Positive = Annotated[int, Parameter(validator=Number(gte=1))]

app = command_app("infra", "Clusters, jobs and storage for SARSense.")
cluster = command_app("cluster", "A Ray cluster of several nodes on this machine (tokens on, loopback only).")
s3 = command_app("s3", "A real S3 server on this machine (Ceph radosgw, loopback only), for rehearsals and tests.")
app.command(cluster)
app.command(s3)


@cluster.command
def start(folder: Path, /, *, nodes: _Positive = 2, cpus: _Positive = 1) -> None:
    """Start a cluster and print what a shell needs to use it (eval "$(infra cluster start DIR)").

    Args:
        folder: where its logs and state go.
        nodes: how many Ray nodes.
        cpus: CPUs that each node offers.
    """
    from infra import local_cluster

    _print_exports(local_cluster.start(folder, nodes=nodes, cpus=cpus))


@cluster.command
def env(folder: Path, /) -> None:
    """Print what a shell needs to use a running cluster (eval "$(infra cluster env DIR)")."""
    from infra import local_cluster

    _print_exports(local_cluster.running(folder))


@cluster.command
def stop(folder: Path, /) -> None:
    """Stop the cluster that was started from a folder."""
    from infra import local_cluster

    local_cluster.running(folder).stop()


@s3.command(name="start")
def s3_start(folder: Path, /, *, bucket: str = "sarsense") -> None:
    """Start the server with one bucket and print what a shell needs to use it.

    Args:
        folder: where its data and logs go; emptied first. Keep the path short.
        bucket: name of the bucket to make.
    """
    from infra import local_s3

    server = local_s3.start(folder, detached=True)
    server.create_bucket(bucket)
    say(*(f"export {name}={value}" for name, value in server.environment.items()))


@s3.command(name="stop")
def s3_stop(folder: Path, /) -> None:
    """Stop the server that was started from a folder."""
    from infra import local_s3

    local_s3.stop(folder)


@app.command
def submit(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    dashboard: Annotated[str | None, Parameter(env_var="RAY_DASHBOARD")] = None,
    wait: bool = True,
    insecure: bool = False,
) -> None:
    """Run a command of this project as a job on a running Ray cluster.

    infra submit --dashboard http://127.0.0.1:8265 -- pretrain di3cl --data URL --out URL

    Args:
        command: the command, after ``--``.
        dashboard: the cluster's dashboard URL.
        wait: follow the job's log until it ends.
        insecure: also use a cluster that asks for no token.
    """
    from infra.errors import UsageError
    from infra.submit import submit as submit_job

    if dashboard is None:
        raise UsageError(
            "no cluster named: give --dashboard URL or set RAY_DASHBOARD, for a local one with:"
            ' eval "$(infra cluster env FOLDER)"'
        )
    say(submit_job(dashboard, command, wait=wait, insecure=insecure))


@app.command
def save_every(*, save_s: float, failure_s: float, step_s: float) -> None:
    """Say how often a run should save (--checkpoint.every): Young's interval.

    infra save-every --save-s 10 --failure-s 7200 --step-s 0.4

    Args:
        save_s: seconds that training stands still for a checkpoint.
        failure_s: mean seconds between failures of the whole job; of the spot market, hours.
        step_s: seconds of a step.
    """
    from infra.interval import best_interval_s

    seconds = best_interval_s(save_s, failure_s)
    say(f"every {seconds:.0f} s: --checkpoint.every {max(1, round(seconds / step_s))}")


def _print_exports(cluster: "LocalCluster") -> None:
    lines = [f"export {name}={value}" for name, value in cluster.environment.items()]
    say(*lines, f"export RAY_DASHBOARD={cluster.dashboard}")


def main() -> None:
    """Run the ``infra`` command."""
    run(app)
