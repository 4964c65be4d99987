"""The methods by name, and the dials of each; free of torch."""

from collections.abc import Mapping

from pretrain.di3cl_run import DI3CLRun
from pretrain.pair_run import PairRun

RUNS: Mapping[str, type[PairRun]] = {"di3cl": DI3CLRun}
"""The run that each method takes."""
