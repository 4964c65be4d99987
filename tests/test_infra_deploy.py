"""The deployment files: valid where a validator is at hand, closed to strangers, and scripts that do what they say."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from slurm import slurm_programs

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "infra/deploy"
CLUSTERS = ["ray-onprem.yaml", "ray-aws.yaml"]


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_takes_its_cluster_files(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    assert config["max_workers"] == 2
    with pytest.raises(Exception, match="headtype"):
        validate_config(config | {"headtype": "a typo"})


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_node_asks_for_the_token(name: str) -> None:
    config = read(name)
    starts = [
        line for part in ("head", "worker") for line in config[f"{part}_start_ray_commands"] if "ray start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"


def test_aws_keeps_keys_off_the_machines() -> None:
    nodes = read("ray-aws.yaml")["available_node_types"]
    for node in nodes.values():
        assert node["node_config"]["IamInstanceProfile"] == {"Name": "sarsense-trainer"}
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
        assert all(device["Ebs"]["Encrypted"] for device in node["node_config"]["BlockDeviceMappings"])
    assert nodes["gpu"]["min_workers"] == 2


def test_the_kubernetes_job_names_two_gpu_nodes_that_may_save_before_they_go() -> None:
    job = read("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert cluster["rayVersion"] == pins["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 2
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    drain = {entry["name"]: entry["value"] for entry in container["env"]}["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
    assert float(drain) + 20 < pod["terminationGracePeriodSeconds"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert "--ranks 2" in job["spec"]["entrypoint"]


def allowed(policy: dict[str, Any], action: str, key: str) -> bool:
    def matches(statement: dict[str, Any]) -> bool:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        places = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        return action in actions and any(fnmatchcase(f"arn:aws:s3:::BUCKET/{key}", place) for place in places)

    return any(matches(statement) for statement in policy["Statement"])


def test_a_trainer_may_not_touch_the_corpus() -> None:
    policy = json.loads((DEPLOY / "trainer-policy.json").read_text())
    assert allowed(policy, "s3:GetObject", "corpus/shards/a.tar")
    assert not allowed(policy, "s3:PutObject", "corpus/shards/a.tar")
    assert not allowed(policy, "s3:DeleteObject", "corpus/shards/a.tar")
    assert allowed(policy, "s3:PutObject", "run/encoder.safetensors")
    assert allowed(policy, "s3:DeleteObject", "run/checkpoints/step-000000500-0123456789abcdef.safetensors")
    assert not allowed(policy, "s3:DeleteObject", "run/encoder.safetensors")
    assert not allowed(policy, "s3:GetObject", "other/secret")
    assert "*" not in {action for s in policy["Statement"] for action in [s["Action"]] if isinstance(action, str)}


def test_no_file_names_a_host_to_fetch_packages_from() -> None:
    hosts = re.compile(r"https?://(?!127\.0\.0\.1)|pypi|conda|\bghcr\b|docker\.io|nvcr")
    for path in DEPLOY.iterdir():
        assert not hosts.search(path.read_text()), path.name


def test_the_image_is_pinned_and_runs_as_nobody_in_particular() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert "--constraint /tmp/constraints.txt" in text
    assert "USER sarsense" in text
    copied = {
        Path(line.split()[1]).name for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line
    }
    assert {"ingest", "shards", "pretrain", "finetune", "infra", "constraints.txt", "pyproject.toml"} <= copied
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sbatch"])
def test_scripts_are_bash_and_may_be_run(name: str) -> None:
    assert subprocess.run(["bash", "-n", DEPLOY / name], check=False).returncode == 0
    assert os.access(DEPLOY / name, os.X_OK)


def run_batch(folder: Path, pretrain: str, signals: int = 0) -> tuple[int, list[str], str]:
    """Run the batch script with a ``pretrain`` of a few lines; gives code, the ranks' words, requeues."""
    variables = slurm_programs(folder)
    program = folder / "bin/pretrain"
    program.unlink()
    program.write_text(f'#!/bin/bash\nsay() {{ echo "$*" >> {folder}/said; }}\n{pretrain}\n')
    program.chmod(0o755)
    job = subprocess.Popen(
        ["bash", str(DEPLOY / "slurm.sbatch"), "di3cl", "--out", "a b"],
        env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "4711", "SLURM_NTASKS": "2"} | variables,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(signals):
        while not (folder / "said").exists():
            time.sleep(0.02)
        time.sleep(0.1)
        job.send_signal(signal.SIGUSR1)
    code = job.wait(30)
    said = (folder / "said").read_text().splitlines() if (folder / "said").exists() else []
    requeued = folder / "requeued"
    return code, sorted(said), requeued.read_text() if requeued.exists() else ""


def test_a_batch_job_starts_a_rank_on_every_task(tmp_path: Path) -> None:
    code, said, requeued = run_batch(tmp_path, 'say "$SLURM_PROCID of $SLURM_STEP_NUM_TASKS: $# $4"')
    assert (code, said, requeued) == (0, ["0 of 2: 3 ", "1 of 2: 3 "], "")


def test_a_batch_job_starts_ranks_that_died_again(tmp_path: Path) -> None:
    died = f'say start; if [ "$SLURM_PROCID" = 1 ] && mkdir {tmp_path}/died 2>/dev/null; then kill -9 $$; fi'
    assert run_batch(tmp_path, died) == (0, ["start"] * 4, "")


@pytest.mark.parametrize("code", [2, 3])
def test_a_batch_job_that_is_refused_or_told_to_stop_does_not_start_again(tmp_path: Path, code: int) -> None:
    assert run_batch(tmp_path, f"say start; exit {code}") == (code, ["start"] * 2, "")


def test_a_batch_job_near_its_limit_saves_and_goes_back_into_the_queue(tmp_path: Path) -> None:
    waits = "trap 'say saved; exit 3' TERM; say start; for i in $(seq 200); do sleep 0.05; done"
    code, said, requeued = run_batch(tmp_path, waits, signals=1)
    assert (code, said, requeued) == (0, ["saved", "saved", "start", "start"], "requeue 4711\n")


def test_this_python_has_what_the_scripts_call() -> None:
    assert (Path(sys.executable).parent / "torchrun").exists()
