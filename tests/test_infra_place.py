"""Places among ranks, read from environments as torchrun and Slurm set them."""

import pytest

from infra.errors import UsageError
from infra.place import Place, find_place, first_host, rank_range

# torchrun --nnodes 2 --nproc-per-node 2: what the second process of the second machine was given (torch 2.13).
TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2", "ROLE_RANK": "3", "ROLE_NAME": "default", "ROLE_WORLD_SIZE": "4",
    "MASTER_ADDR": "gpu01", "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip

# sbatch --nodes=2 --ntasks-per-node=2, then srun inside it: task 2, the first of the second node.
SRUN = {
    "SLURM_JOB_ID": "4711", "SLURM_JOBID": "4711", "SLURM_JOB_NODELIST": "gpu[003-004]",
    "SLURM_NODELIST": "gpu[003-004]",
    "SLURM_JOB_NUM_NODES": "2", "SLURM_NNODES": "2", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_ID": "0", "SLURM_STEPID": "0", "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURMD_NODENAME": "gpu004", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.3",
}  # fmt: skip

# The batch script itself: no step, though the counts of the whole job are there.
SBATCH = {name: value for name, value in SRUN.items() if "STEP" not in name} | {"SLURM_PROCID": "0"}

# srun --pty bash inside an allocation of four tasks: a step of one.
INTERACTIVE = SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_PROCID": "0"}


def test_torchrun_says_where() -> None:
    assert find_place(TORCHRUN) == Place(3, 4, 1, "gpu01", 29500, neighbours=2)


def test_srun_says_where() -> None:
    assert find_place(SRUN) == Place(2, 4, 0, "gpu003", 20000 + 4711 * 7 % 12000, neighbours=2)
    assert find_place(SRUN | {"SLURM_CPUS_PER_TASK": "8"}) == Place(2, 4, 0, "gpu003", 28977, neighbours=1)
    own = find_place(SRUN | {"MASTER_ADDR": "10.0.0.3", "MASTER_PORT": "12345"})
    assert own is not None
    assert (own.host, own.port) == ("10.0.0.3", 12345)


def test_every_task_of_a_step_finds_the_same_meeting_point() -> None:
    tasks = [SRUN | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n % 2)} for n in range(4)]
    places = [find_place(task) for task in tasks]
    assert [p and (p.rank, p.local) for p in places] == [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert len({p and (p.host, p.port, p.size) for p in places}) == 1
    assert find_place(SRUN | {"SLURM_STEP_ID": "1"}) != find_place(SRUN)  # a second srun of the same job


@pytest.mark.parametrize("alone", [{}, SBATCH, INTERACTIVE, TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}])
def test_alone(alone: dict[str, str]) -> None:
    assert find_place(alone) is None


def test_torchrun_inside_slurm_counts() -> None:
    assert find_place(SRUN | TORCHRUN) == find_place(TORCHRUN)


def test_the_variables_of_a_place_give_it_back() -> None:
    place = Place(1, 2, 1, "node-a", 23456)
    assert find_place(place.variables) == place


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT not: start with torchrun"),
        (TORCHRUN | {"RANK": "4"}, "rank 4 of 4: ranks count from 0"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two': expected a whole number"),
        (SRUN | {"SLURM_STEP_NODELIST": "[,"}, "expected hosts such as"),
    ],
)
def test_what_makes_no_sense_is_refused(broken: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_place(broken)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu01", "gpu01"),
        ("gpu01,gpu02", "gpu01"),
        ("gpu[003-010,12],login1", "gpu003"),
        ("gpu[12,003-010]", "gpu12"),
        ("rack[1-2]-n[07-08]", "rack1-n07"),
        ("a-[1-2].cluster.example", "a-1.cluster.example"),
        ("login1,gpu[1-2]", "login1"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_ranks_are_a_number_or_a_range() -> None:
    assert [rank_range(text) for text in (1, "4", "2..4", " 3..3 ")] == [(1, 1), (4, 4), (2, 4), (3, 3)]
    for wrong in ("0", "4..2", "many", "-1", "2-4", "2.."):
        with pytest.raises(UsageError, match=r"--ranks .* expected a number such as 4"):
            rank_range(wrong)
