"""Random numbers that a view's own numbers decide: the same on any device, in any batch, on any number of ranks.

They are hashes of a key and a counter, so there is no generator to seed or to save.
"""

import functools

import numpy as np
import torch
from scipy.special import gammainccinv, gammaincinv, ndtr
from torch import Tensor

_FACTORS = (0x21F0AAAD, 0x735A2D97)
"""Of a 32-bit mixer found by C. Wellons' hash-prospector (public domain)."""

_GOLDEN = 0x9E3779B9
_LEVELS = 33
_NODES, _REACH = 1025, 5.5


def view_keys(numbers: Tensor) -> Tensor:
    """Give two 32-bit keys (N, 2) int32 of each view's numbers (N, 8) float32."""
    bits = numbers.contiguous().view(torch.int32)
    key = torch.zeros_like(bits[:, 0])
    pair = []
    for half in (bits[:, :4], bits[:, 4:]):
        for word in half.unbind(1):
            key = scrambled(key ^ word)
        pair.append(key)
    return torch.stack(pair, 1)


def scrambled(word: Tensor) -> Tensor:
    """Give a permutation of the 32-bit words without visible pattern (int32, wrapping)."""
    word = word ^ ((word >> 16) & 0xFFFF)
    word = word * _FACTORS[0]
    word = word ^ ((word >> 15) & 0x1FFFF)
    word = word * _FACTORS[1]
    return word ^ ((word >> 15) & 0x1FFFF)


def uniforms(keys: Tensor, stream: int, count: int) -> Tensor:
    """Give ``count`` numbers (N, count) float32 in the open interval 0..1 of keys (N, 2); streams do not meet."""
    first = scrambled(keys[:, :1] + _signed(stream * _GOLDEN))
    index = torch.arange(count, device=keys.device, dtype=torch.int32)
    word = scrambled(scrambled(index + first) ^ keys[:, 1:])
    # 23 bits and a half: neither 0 nor 1 after rounding to float32.
    return (((word >> 9) & 0x7FFFFF).to(torch.float32) + 0.5) * 2.0**-23


def speckle_db(keys: Tensor, stream: int, shares: Tensor, looks: tuple[float, float], shape: torch.Size) -> Tensor:
    """Give speckle in dB of ``shape`` (N, ...): power of mean 1 with the gamma distribution of L looks.

    L lies between ``looks``, by ``shares`` (N,) 0..1 on a logarithmic scale, on one of 33 levels.
    """
    levels = quantiles_db(*looks, keys.device)[(shares * (_LEVELS - 1)).round().long()]
    normal = torch.special.ndtri(uniforms(keys, stream, shape[1:].numel()))
    place = ((normal + _REACH) * ((_NODES - 1) / (2 * _REACH))).clamp(0, _NODES - 1.001)
    node = place.long()
    below, above = levels.gather(1, node), levels.gather(1, node + 1)
    return torch.lerp(below, above, place - node).view(shape)


@functools.lru_cache(maxsize=8)
def quantiles_db(least: float, most: float, device: torch.device) -> Tensor:
    """Give the quantiles (33, 1025) of speckle in dB, by level of looks and by normal deviate from -5.5 to 5.5."""
    looks = np.geomspace(least, most, _LEVELS)[:, None]
    normal = np.linspace(-_REACH, _REACH, _NODES)
    # Each half from its own tail, where the probability has all its digits.
    low, high = gammaincinv(looks, ndtr(normal)), gammainccinv(looks, ndtr(-normal))
    power = np.where(normal < 0, low, high) / looks
    return torch.from_numpy(10 * np.log10(power)).to(device, torch.float32)


def _signed(word: int) -> int:
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >= 1 << 31 else word
