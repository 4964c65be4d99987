"""What changed between two versions: dials, scenes, tiles."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.manifest import Manifest
from shards.reader import Corpus

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """How version ``after`` differs from ``before`` (digests); tiles are told apart by key and CRC32C of payloads.

    ``dials`` maps dotted names of the head and the recipe to (before, after). Scenes and tiles are sorted names;
    ``changed`` tiles have other pixels or another label under the same key.
    """

    before: str
    after: str
    dials: Mapping[str, tuple[Any, Any]]
    scenes_added: tuple[str, ...]
    scenes_removed: tuple[str, ...]
    scenes_changed: tuple[str, ...]
    tiles_added: tuple[str, ...]
    tiles_removed: tuple[str, ...]
    tiles_changed: tuple[str, ...]
    tiles_same: int

    @property
    def nothing(self) -> bool:
        """Whether both are one version."""
        return self.before == self.after

    def plain(self) -> dict[str, Any]:
        """Give all as JSON data."""
        return {name: getattr(self, name) for name in self.__slots__}

    def lines(self) -> Iterator[str]:
        """Say it to a person."""
        if self.nothing:
            yield f"both are {self.before}"
            return
        yield f"before  {self.before}"
        yield f"after   {self.after}"
        for name, (old, new) in self.dials.items():
            yield f"{name}: {old} -> {new}"
        for what in ("scenes", "tiles"):
            for how, mark in (("removed", "-"), ("added", "+"), ("changed", "~")):
                names = getattr(self, f"{what}_{how}")
                if names:
                    yield f"{len(names)} {what} {how}"
                    yield from (f"  {mark} {name}" for name in names[:SHOWN])
                    if len(names) > SHOWN:
                        yield f"  ... and {len(names) - SHOWN} more (--json lists all)"
        yield f"{self.tiles_same} tiles are the same"


def diff(before: Corpus, after: Corpus) -> Difference:
    """Compare two versions, of one corpus or of two, by their indexes alone; 10^6 tiles take seconds."""
    one, two = before.manifest, after.manifest
    scenes = [{s.id: (s.fingerprint, s.weight) for s in manifest.sources} for manifest in (one, two)]
    common = scenes[0].keys() & scenes[1].keys()
    here, there = _match(before.table["key"], after.table["key"])
    same = np.ones(len(here), dtype=bool)
    for column in ("crc32c", "length", "label_crc32c", "label_length"):
        same &= before.table[column].to_numpy()[here] == after.table[column].to_numpy()[there]
    return Difference(
        before=one.digest,
        after=two.digest,
        dials=dict(_dials(_head(one), _head(two))),
        scenes_added=_sorted(scenes[1].keys() - common),
        scenes_removed=_sorted(scenes[0].keys() - common),
        scenes_changed=_sorted({name for name in common if scenes[0][name] != scenes[1][name]}),
        tiles_added=_keys(after.table, _without(len(after), there)),
        tiles_removed=_keys(before.table, _without(len(before), here)),
        tiles_changed=_keys(before.table, here[~same]),
        tiles_same=int(same.sum()),
    )


def _match(one: pa.ChunkedArray, two: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the row numbers of the keys that both have, pair by pair."""
    place = pc.index_in(one, value_set=two.combine_chunks())
    found = np.asarray(pc.fill_null(place, -1).to_numpy(), dtype=np.int64)
    here = np.flatnonzero(found >= 0)
    return here, found[here]


def _without(count: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    left = np.ones(count, dtype=bool)
    left[rows] = False
    return np.flatnonzero(left)


def _keys(table: pa.Table, rows: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(sorted(table["key"].take(pa.array(rows)).to_pylist()))


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _head(manifest: Manifest) -> dict[str, Any]:
    names = {"recipe", "pixels_digest", "scale", "codec", "legend", "lineage", "tiles", "bytes"}
    return manifest.model_dump(mode="json", include=names)


def _dials(one: Any, two: Any, name: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Give the leaves in which two nested records differ."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in sorted(one.keys() | two.keys()):
            yield from _dials(one.get(key), two.get(key), f"{name}.{key}" if name else key)
    elif one != two:
        yield name, (one, two)
