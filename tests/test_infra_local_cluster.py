"""Two Ray nodes on this machine, tokens on: jobs run, strangers are kept out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra import local_cluster
from infra.errors import ResourceError, UsageError
from infra.submit import submit


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory):
    with local_cluster.start(tmp_path_factory.mktemp("ray"), nodes=2, cpus=1) as cluster:
        yield cluster


def run_submit(
    cluster: local_cluster.LocalCluster, *command: str, token: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Submit as a user does: a process of its own, since Ray reads the token once."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | cluster.environment
    environment |= {"RAY_AUTH_TOKEN": token} if token else {}
    code = "import sys; from infra.cli import main; main()"
    line = [sys.executable, "-c", code, "submit", "--dashboard", cluster.dashboard, "--", *command]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)


def test_a_job_needs_the_token(two_nodes: local_cluster.LocalCluster) -> None:
    done = run_submit(two_nodes, "ingest", "recipes", token="0" * 64)
    assert done.returncode == 4
    assert "token" in done.stderr


def test_a_command_runs_as_a_job(two_nodes: local_cluster.LocalCluster) -> None:
    done = run_submit(two_nodes, "ingest", "recipes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("raysubmit_")
    assert "sarsense-lee" in done.stderr


def test_a_job_that_fails_is_a_failure_here(two_nodes: local_cluster.LocalCluster) -> None:
    done = run_submit(two_nodes, "ingest", "build-sarsense", "/nowhere/catalog.csv", "--out", "/nowhere")
    assert done.returncode == 4
    assert "ended as FAILED" in done.stderr
    assert "/nowhere/catalog.csv" in done.stderr


def test_only_our_own_commands_are_sent(two_nodes: local_cluster.LocalCluster) -> None:
    with pytest.raises(UsageError, match="starts with one of ingest"):
        submit(two_nodes.dashboard, ["rm", "-rf", "/"])


def test_the_same_folder_holds_one_cluster(two_nodes: local_cluster.LocalCluster) -> None:
    folder = Path(two_nodes.folder)
    assert local_cluster.running(folder) == two_nodes
    assert (folder / "cluster.json").stat().st_mode & 0o077 == 0
    with pytest.raises(UsageError, match="already running"):
        local_cluster.start(folder)


def test_no_cluster_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="infra cluster start"):
        local_cluster.running(tmp_path)
    with pytest.raises(ResourceError, match="is the cluster up"):
        submit("http://127.0.0.1:1", ["ingest", "recipes"])
