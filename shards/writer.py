"""Tiles into tar shards that plain webdataset reads; the same tiles give the same bytes."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import google_crc32c

from infra.record import sha256
from infra.store import Store
from shards.codec import Codec, encode
from shards.index import OPTIONAL, UnitRows, rows_table
from shards.manifest import Shard, check_key
from shards.tile import Tile

BLOCK = 512
"""A tar file is made of blocks of this many bytes."""

_TILE_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}", re.ASCII)  # with its longest suffix it must fit USTAR's 100 bytes


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """A finished tar file and its tiles' index records, in order, without ``shard``."""

    data: bytes
    records: list[dict[str, Any]]


class ShardWriter:
    """Packs tiles into tar files of at most ``max_bytes`` each (a single larger tile gets its own)."""

    def __init__(self, codec: Codec, max_bytes: int) -> None:
        self._codec = codec
        self._max_bytes = max_bytes
        self._start()

    def add(self, tile: Tile) -> WrittenShard | None:
        """Add a tile, and give the shard before it if that is now full."""
        _check_tile(tile)
        members = encode(tile, self._codec)
        full = None
        if self._records and self._tar.tell() + _size(members) + 2 * BLOCK > self._max_bytes:
            full = self.finish()
        self._records.append(self._write(tile, members))
        return full

    def finish(self) -> WrittenShard | None:
        """Close the shard in work and give it, or None if it is empty."""
        if not self._records:
            return None
        self._tar.write(bytes(2 * BLOCK))
        shard = WrittenShard(self._tar.getvalue(), self._records)
        self._start()
        return shard

    def _start(self) -> None:
        self._tar = io.BytesIO()
        self._records: list[dict[str, Any]] = []

    def _write(self, tile: Tile, members: list[tuple[str, bytes]]) -> dict[str, Any]:
        record = _place(tile)
        for suffix, payload in members:
            self._tar.write(tar_header(f"{tile.key}.{suffix}", len(payload)))
            prefix = {"json": "meta_", "label.npy": "label_"}.get(suffix, "")
            record[f"{prefix}offset"] = self._tar.tell()
            record[f"{prefix}length"] = len(payload)
            record[f"{prefix}crc32c"] = google_crc32c.value(payload)
            self._tar.write(payload)
            self._tar.write(bytes(padding(len(payload))))
        return record


def write_unit(store: Store, unit_name: str, tiles: Iterable[Tile], codec: Codec, max_bytes: int) -> UnitRows:
    """Write the tiles of one unit of work (a scene, some chips) as shards of their own and give their index rows.

    A shard's key holds its content's digest, ``shards/<unit>-<n>-<digest>.tar``, so that writing again is harmless.
    No tiles give no shards. Memory holds one shard and one tile.
    """
    check_key(unit_name)
    writer = ShardWriter(codec, max_bytes)
    unit = _Unit(store, unit_name)
    for tile in tiles:
        if (full := writer.add(tile)) is not None:
            unit.put(full)
    if (last := writer.finish()) is not None:
        unit.put(last)
    return UnitRows(unit.shards, rows_table(unit.records))


class _Unit:
    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self.shards: list[Shard] = []
        self.records: list[dict[str, Any]] = []

    def put(self, written: WrittenShard) -> None:
        number = len(self.shards)
        digest = sha256(written.data)
        key = f"shards/{self._name}-{number:06d}-{digest[:12]}.tar"
        self._store.put(key, written.data)
        tiles = len(written.records)
        self.shards.append(Shard(key=key, sha256=digest, bytes=len(written.data), tiles=tiles))
        self.records += [{**record, "shard": number} for record in written.records]


def tar_header(name: str, size: int) -> bytes:
    """Give the 512-byte USTAR header (POSIX.1-1988) of a plain file: mode 0644, owner and time 0.

    Written here so that no release of Python changes a shard's digest.
    """
    head = name.encode("ascii").ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
    head += b"%011o\0" % size + b"00000000000\0"
    tail = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    checksum = sum(head) + sum(tail) + 8 * ord(" ")
    return head + b"%06o\0 " % checksum + tail


def padding(size: int) -> int:
    """Give how many zero bytes follow a member of ``size`` bytes."""
    return -size % BLOCK


def _size(members: list[tuple[str, bytes]]) -> int:
    return sum(BLOCK + len(payload) + padding(len(payload)) for _, payload in members)


def _check_tile(tile: Tile) -> None:
    if not _TILE_KEY.fullmatch(tile.key):
        raise ValueError(f"tile key {tile.key!r}: expected 1 to 90 letters, digits, '-' and '_'")
    if tile.pixels.ndim != 3 or tile.pixels.dtype.str not in ("<u2", ">u2"):
        raise ValueError(
            f"tile {tile.key}: expected (bands, rows, cols) uint16, got {tile.pixels.shape} {tile.pixels.dtype}"
        )
    if tile.label is not None and (tile.label.shape != tile.pixels.shape[1:] or tile.label.dtype != "uint8"):
        raise ValueError(
            f"tile {tile.key}: expected a (rows, cols) uint8 label, got {tile.label.shape} {tile.label.dtype}"
        )


def _place(tile: Tile) -> dict[str, Any]:
    """Give the index columns that follow from a tile's meta."""
    meta = tile.meta
    footprint = meta["footprint"]
    return {
        "key": tile.key,
        "scene": meta["scene"],
        "sensor": meta["sensor"],
        "polarisations": list(meta["polarisations"]),
        **dict(zip(("bands", "rows", "cols"), tile.pixels.shape, strict=True)),
        **{f"window_{name}": value for name, value in zip(("row", "col", "rows", "cols"), meta["window"], strict=True)},
        **{"label_offset": -1, "label_length": 0, "label_crc32c": 0},
        "valid_share": meta["valid_share"],
        "mean_db": list(meta["mean_db"]),
        "time": meta["time"],
        "footprint": None if footprint is None else [float(x) for corner in footprint for x in corner],
        **{name: meta.get(name) for name in OPTIONAL},
    }
