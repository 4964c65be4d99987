"""The methods by name, and the dials of each; free of torch."""

from collections.abc import Mapping
from importlib import resources

from infra.errors import UsageError
from pretrain.baseline_runs import (
    BarlowRun,
    BYOLRun,
    MoCoRun,
    PixProRun,
    ReSimRun,
    SimCLRRun,
    SimSiamRun,
    SSCCLRun,
)
from pretrain.config import named_runs
from pretrain.di3cl_run import DI3CLRun
from pretrain.pair_run import PairRun

RUNS: Mapping[str, type[PairRun]] = {
    "di3cl": DI3CLRun,
    "moco": MoCoRun,
    "simclr": SimCLRRun,
    "byol": BYOLRun,
    "simsiam": SimSiamRun,
    "barlow": BarlowRun,
    "pixpro": PixProRun,
    "resim": ReSimRun,
    "ssccl": SSCCLRun,
}
"""The run that each method takes."""

TITLES: Mapping[str, str] = {
    "di3cl": "DI3CL (Ren et al., arXiv 2511.07808)",
    "moco": "MoCo v2 (Chen et al., arXiv 2003.04297)",
    "simclr": "SimCLR (Chen et al., arXiv 2002.05709)",
    "byol": "BYOL (Grill et al., arXiv 2006.07733)",
    "simsiam": "SimSiam (Chen and He, arXiv 2011.10566)",
    "barlow": "Barlow Twins (Zbontar et al., arXiv 2103.03230)",
    "pixpro": "PixPro (Xie et al., arXiv 2011.10043)",
    "resim": "ReSim (Xiao et al., arXiv 2103.12902)",
    "ssccl": "SSCCL (Dong et al., TGRS 2023; details not public)",
}
"""Each method's name and paper."""


def method_of(run: str) -> str:
    """Give the method of a named run: what stands before the first underscore of its name."""
    return run.split("_", 1)[0]


def check_method(method: str, run: str | None) -> None:
    """Refuse a named run of another method (UsageError); a name that is unknown is refused elsewhere."""
    if run in named_runs() and method_of(run) != method:
        own = ", ".join(name for name in named_runs() if method_of(name) == method)
        raise UsageError(
            f"run {run} is for {method_of(run)}, not for {method}: start `pretrain {method_of(run)} --run {run}`,"
            f" or take a run of {method}: {own}"
        )


def describe_run(run: str) -> str:
    """Give the first line of a named run's file, which says what it is."""
    text = resources.files("pretrain.runs").joinpath(f"{run}.yaml").read_text()
    return text.splitlines()[0].removeprefix("#").strip()
