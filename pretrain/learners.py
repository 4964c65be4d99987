"""The methods by name, and the learner of each."""

from collections.abc import Mapping

from pretrain.barlow import Barlow
from pretrain.byol import BYOL
from pretrain.di3cl import DI3CL
from pretrain.learner import Pretrainer
from pretrain.moco import MoCo
from pretrain.pixpro import PixPro
from pretrain.resim import ReSim
from pretrain.simclr import SimCLR
from pretrain.simsiam import SimSiam
from pretrain.ssccl import SSCCL

LEARNERS: Mapping[str, type[Pretrainer]] = {
    "di3cl": DI3CL,
    "moco": MoCo,
    "simclr": SimCLR,
    "byol": BYOL,
    "simsiam": SimSiam,
    "barlow": Barlow,
    "pixpro": PixPro,
    "resim": ReSim,
    "ssccl": SSCCL,
}
"""What trains with the run of the same name in :mod:`pretrain.methods`."""
