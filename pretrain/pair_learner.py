"""What the learners on two views have in common: a network from the seed, its input, its parameters."""

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from infra.errors import UsageError
from infra.world import World
from pretrain.encoder import ResNet
from pretrain.inputs import check_pairs, encoder_input
from pretrain.pair_run import PairRun
from pretrain.views import PairDraw
from shards.tile import DbScale

Run = TypeVar("Run", bound=PairRun)
Network = TypeVar("Network", bound=nn.Module)


class PairLearner(Generic[Run, Network]):
    """A learner but for its network and its losses. ``scale`` is the corpus's.

    Batches are what :class:`pretrain.views.PairDraw` gives. The network has its trained side under ``query``.
    """

    def __init__(self, config: Run, scale: DbScale, world: World) -> None:
        self.check(config, world)
        self._config, self._scale, self._world = config, scale, world
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._network = self.build(config)

    @staticmethod
    def check(config: Any, world: World) -> None:
        """Refuse dials that do not fit each other (UsageError)."""
        check_pairs(config, world)
        v = config.views
        if v.min_box_px >= v.size_px:
            raise UsageError(
                f"shared ground of more than {v.min_box_px} px does not fit views of {v.size_px} px"
                " (--views.min-box-px)"
            )

    def build(self, config: Run) -> Network:
        """Make the network; torch's generator has been seeded."""
        raise NotImplementedError

    @property
    def module(self) -> Network:
        """Everything to be saved."""
        return self._network

    @property
    def encoder(self) -> ResNet:
        """The trained side's encoder."""
        return cast(ResNet, self._network.get_submodule("query.encoder"))

    @property
    def draw(self) -> PairDraw:
        """What turns a tile into a sample."""
        return PairDraw(self._config.views)

    def parameters(self) -> Iterable[nn.Parameter]:
        """All that is not a twin."""
        return (p for p in self._network.parameters() if p.requires_grad)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Give the loss to go down under "loss", and numbers to log beside it."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Do nothing: there is no twin and no queue."""

    def see(self, batch: Mapping[str, Tensor], view: int) -> Tensor:
        """Give the encoder's input (N, bands, H, W) of view 1 or 2."""
        return encoder_input(batch[f"view{view}"], batch[f"numbers{view}"], self._scale, self._config)
