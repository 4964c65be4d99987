"""Decoders by name, and the whole head that a configuration asks for."""

from collections.abc import Callable, Mapping, Sequence

from finetune.config import DecoderConfig, DecoderKind
from finetune.decoder import Decoder, UperNet
from finetune.decoder_attention import DaNet
from finetune.decoder_farseg import FarSeg
from finetune.decoder_fcn import Fcn, LinearProbe
from finetune.decoder_pyramid import DeepLabV3Plus, PspNet
from finetune.decoder_unet import UNet
from finetune.refine import Refined

DECODERS: Mapping[DecoderKind, Callable[[Sequence[int], int, DecoderConfig], Decoder]] = {
    "upernet": UperNet,
    "fcn": Fcn,
    "unet": UNet,
    "danet": DaNet,
    "pspnet": PspNet,
    "deeplabv3plus": DeepLabV3Plus,
    "farseg": FarSeg,
    "linear": LinearProbe,
}


def make_decoder(inputs: Sequence[int], bands: int, classes: int, config: DecoderConfig) -> Decoder | Refined:
    """Make the head for an encoder whose four maps have ``inputs`` channels, fed with images of ``bands``."""
    decoder = DECODERS[config.kind](inputs, classes, config)
    if config.refine or config.inject != "none":
        return Refined(decoder, inputs, bands, classes, config)
    return decoder
