"""Which of several processes this one is, as torchrun, Slurm or the gang under Ray say it in the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from infra.errors import UsageError

_PORTS = range(20000, 32000)  # as infra.ports hands out: below the ports of outgoing connections


@dataclass(frozen=True, slots=True)
class Place:
    """One rank among ``size``, the ``local`` one of its machine; rank 0 listens at ``host:port``."""

    rank: int
    size: int
    local: int
    host: str
    port: int
    neighbours: int = 1
    """Ranks that share this machine's cores, itself counted."""

    @property
    def variables(self) -> dict[str, str]:
        """The environment by which torch's own tools know a place."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
        }


def find_place(environment: Mapping[str, str]) -> Place | None:
    """Read the place that torchrun (or anything that sets its variables) or srun has given to this process.

    None where neither has, or where there is only one rank. Raises UsageError where half of it is missing.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        place = _of_torchrun(environment)
    elif "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        place = _of_slurm(environment)  # a batch script has no step: what it runs without srun runs alone
    else:
        return None
    if not 0 <= place.rank < place.size:
        raise UsageError(f"the environment says rank {place.rank} of {place.size}: ranks count from 0")
    return place if place.size > 1 else None


def _of_torchrun(environment: Mapping[str, str]) -> Place:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if missing and _number(environment, "WORLD_SIZE") > 1:
        raise UsageError(
            f"RANK and WORLD_SIZE are set, {' and '.join(missing)} not: start with torchrun, which sets all,"
            " or unset RANK to run alone"
        )
    rank = _number(environment, "RANK")
    return Place(
        rank=rank,
        size=_number(environment, "WORLD_SIZE"),
        local=_number(environment, "LOCAL_RANK", 0),
        host=environment.get("MASTER_ADDR", "127.0.0.1"),
        port=_number(environment, "MASTER_PORT", _PORTS.start),
        neighbours=_number(environment, "LOCAL_WORLD_SIZE", 1),
    )


def _of_slurm(environment: Mapping[str, str]) -> Place:
    # The step's own count: an interactive shell is a step of one task in an allocation of several.
    count = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    # With --cpus-per-task each task is bound to cores of its own.
    tasks = "1" if "SLURM_CPUS_PER_TASK" in environment else environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    job, step = _number(environment, "SLURM_JOB_ID", 0), _number(environment, "SLURM_STEP_ID", 0)
    return Place(
        rank=_number(environment, "SLURM_PROCID"),
        size=_number(environment, count),
        local=_number(environment, "SLURM_LOCALID", 0),
        host=environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"]),
        # Every rank finds the same port without asking; the step counts, since a requeued job keeps its number.
        port=_number(environment, "MASTER_PORT", _PORTS[(job * 7 + step) % len(_PORTS)]),
        neighbours=max(map(int, re.findall(r"(?<!x)\b\d+", tasks)), default=1),
    )


def first_host(nodes: str) -> str:
    """Give the first host of a Slurm list such as ``gpu[003-010,12],login1``: ``gpu003``.

    Ranks are dealt in the order of the list, so rank 0 is there. Raises UsageError for what is no such list.
    """
    first = re.match(r"[^,\[\]]*(?:\[[^\[\]]+\][^,\[\]]*)*", nodes.strip())
    if first is None or not first[0] or "," in first[0].split("[")[0]:
        raise UsageError(f"SLURM_STEP_NODELIST is {nodes!r}: expected hosts such as gpu[01-02] or gpu01,gpu02")
    return re.sub(r"\[([^\[\],-]+)[^\[\]]*\]", r"\1", first[0])


def rank_range(text: str | int) -> tuple[int, int]:
    """Read how many ranks are wanted: ``4``, or ``2..4`` for as many as there is room for. Raises UsageError."""
    found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(text).strip())
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most:
        raise UsageError(f"--ranks {text}: expected a number such as 4, or the fewest and the most such as 2..4")
    return least, most


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "")
    if not text and default is not None:
        return default
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"the environment's {name} is {text!r}: expected a whole number") from None
