"""A tile as the members of a shard, and back: the same bytes on every machine."""

import functools
from typing import Any, Literal

import blosc2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from infra.errors import SarsenseError
from infra.record import canonical_json
from shards.tile import Tile

Codec = Literal["npy", "blosc2"]
"""How pixels are stored: ``npy`` opens everywhere, ``blosc2`` (zstd-1 and byte shuffle) is smaller and as fast."""

Buffer = bytes | NDArray[np.uint8]

# The block size is fixed because blosc2 would otherwise take it from the caches of the machine.
_BLOCK_BYTES = 131072

RESERVED = ("key", "shape", "dtype")
"""The names that the codec adds to a tile's JSON."""


class CodecError(SarsenseError):
    """A stored member is not what its index says."""


def encode(tile: Tile, codec: Codec) -> list[tuple[str, bytes]]:
    """Give the members of a tile as (suffix, payload): pixels, label if there is one, JSON.

    The JSON is the tile's meta with its ``key``, and the ``shape`` and ``dtype`` that a plain reader of a
    blosc2 member needs: ``np.frombuffer(blosc2.decompress2(payload), dtype).reshape(shape)``.
    """
    members: list[tuple[str, bytes]] = [(codec, _encode_array(_little_endian(tile.pixels), codec))]
    if tile.label is not None:
        members.append(("label.npy", encode_npy(tile.label)))
    members.append(("json", _encode_meta(tile)))
    return members


def decode_pixels(
    payload: Buffer,
    codec: Codec,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Give the writable array in a payload, decoded into ``out`` (C-contiguous, this shape and dtype) if given.

    Without ``out``, the array may share the memory of a writable ``payload``.
    Raises CodecError where the payload holds anything else than ``shape`` and ``dtype``.
    """
    if out is not None and (out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous):
        raise ValueError(f"expected a C-contiguous {shape} array of {dtype}, got {out.shape} of {out.dtype}")
    if codec == "npy":
        return _decode_npy(payload, shape, dtype, out)
    return _decode_blosc2(payload, np.empty(shape, dtype) if out is None else out)


def encode_npy(array: NDArray[Any]) -> bytes:
    """Give the bytes of a ``.npy`` file of version 1.0; equal to what ``np.save`` writes."""
    return npy_header(array.shape, array.dtype) + array.tobytes()


@functools.lru_cache(maxsize=256)
def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Give the ``.npy`` header of a C-contiguous array: the NumPy enhancement proposal 1, padded to 64 bytes.

    Written here so that no release of NumPy changes a shard's digest.
    """
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {tuple(shape)!r}, }}"
    text += " " * (21 - len(str(shape[0])))  # np.save's room for a first axis that grows
    size = -(-(10 + len(text) + 1) // 64) * 64
    return b"\x93NUMPY\x01\x00" + (size - 10).to_bytes(2, "little") + text.ljust(size - 11).encode() + b"\n"


def _encode_meta(tile: Tile) -> bytes:
    clash = [name for name in RESERVED if name in tile.meta]
    if clash:
        raise ValueError(f"tile {tile.key}: meta may not hold {clash}: the codec writes them")
    shape = list(tile.pixels.shape)
    return canonical_json(
        {**tile.meta, "key": tile.key, "shape": shape, "dtype": _little_endian(tile.pixels).dtype.str}
    )


def _little_endian(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _encode_array(array: NDArray[Any], codec: Codec) -> bytes:
    if array.size == 0:
        raise ValueError(f"a tile of shape {array.shape} has no pixels")
    if codec == "npy":
        return encode_npy(array)
    _release_gil()
    payload: bytes = blosc2.compress2(
        array,
        codec=blosc2.Codec.ZSTD,
        clevel=1,
        typesize=array.itemsize,
        blocksize=min(_BLOCK_BYTES, array.nbytes),
        filters=[blosc2.Filter.SHUFFLE],
        filters_meta=[0],
        splitmode=blosc2.SplitMode.ALWAYS_SPLIT,
        nthreads=1,
    )
    return payload


def _decode_npy(payload: Buffer, shape: tuple[int, ...], dtype: DTypeLike, out: NDArray[Any] | None) -> NDArray[Any]:
    dtype = np.dtype(dtype)
    header = npy_header(shape, dtype)
    expected = len(header) + int(np.prod(shape)) * dtype.itemsize
    if len(payload) != expected or bytes(payload[: len(header)]) != header:
        raise CodecError(f"expected a .npy of {shape} {dtype} in {expected} bytes, found {len(payload)} bytes")
    stored = np.frombuffer(payload, dtype, offset=len(header)).reshape(shape)
    if out is None:
        return stored if stored.flags.writeable else stored.copy()
    np.copyto(out, stored)
    return out


def _decode_blosc2(payload: Buffer, out: NDArray[Any]) -> NDArray[Any]:
    _release_gil()
    try:
        raw, stored, _ = blosc2.get_cbuffer_sizes(payload)
        if raw != out.nbytes or stored != len(payload):
            raise CodecError(f"expected {out.nbytes} bytes in a chunk of {len(payload)}, found {raw} in {stored}")
        blosc2.decompress2(payload, dst=out, nthreads=1)
    except (RuntimeError, ValueError, TypeError) as error:
        raise CodecError(f"not a blosc2 chunk: {error}") from error
    return out


@functools.cache
def _release_gil() -> None:
    blosc2.set_releasegil(True)
