"""The methods by name, and the learner of each."""

from collections.abc import Mapping

from pretrain.di3cl import DI3CL
from pretrain.learner import Pretrainer

LEARNERS: Mapping[str, type[Pretrainer]] = {"di3cl": DI3CL}
"""What trains with the run of the same name in :mod:`pretrain.methods`."""
