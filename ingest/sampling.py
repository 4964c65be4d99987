"""Which tiles of a scene are kept: by a share of each stratum, and by most so many of a stratum and of the scene.

A tile's chance is a number from 0 to 1 made of its key and the seed alone. A stratum keeps its tiles below the share,
a limit keeps those with the lowest numbers: neither order nor workers matter, and a lower share or limit keeps a part
of what a higher one keeps.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.record import sha256
from ingest.recipe import Sampling
from shards.tile import Tile


@dataclass(slots=True)
class Tally:
    """What became of tiles: how many were left out for which reason, and how many a stratum had and kept."""

    dropped: Counter[str] = field(default_factory=Counter)
    had: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Take the counts of another scene in."""
        self.dropped.update(other.dropped)
        self.had.update(other.had)
        self.kept.update(other.kept)

    def as_json(self) -> dict[str, dict[str, int]]:
        """Give plain data."""
        return {name: dict(sorted(getattr(self, name).items())) for name in ("dropped", "had", "kept")}

    def reasons(self) -> str:
        """Say what tiles were left out for, the most frequent reason first."""
        return ", ".join(f"{count} for {reason}" for reason, count in self.dropped.most_common()) or "none left out"


def stratum(meta: Mapping[str, Any], rules: Sampling) -> str:
    """Name the stratum of a tile from its meta: ground, texture, level."""
    land, contrast_db = meta["land_share"], meta["contrast_db"]
    low, high = rules.land_edges
    ground = "unknown" if land is None else "water" if land < low else "land" if land > high else "coast"
    texture = "flat" if contrast_db is not None and contrast_db < rules.flat_below_db else "varied"
    level = "dark" if meta["mean_db"][0] < rules.dark_below_db else "bright"
    return f"{ground}-{texture}-{level}"


def chance(key: str, seed: int) -> float:
    """Give a tile's number from 0 to 1, evenly spread over keys."""
    return int(sha256(f"{seed}/{key}".encode())[:13], 16) / 16**13


def share_of(name: str, keep: Mapping[str, float]) -> float:
    """Give the share that is kept of a stratum: that of the longest of its names."""
    while name:
        if name in keep:
            return keep[name]
        name = name.rpartition("-")[0]
    return 1.0


def sample(tiles: Iterable[Tile], rules: Sampling, tally: Tally) -> Iterator[Tile]:
    """Give the kept tiles of one scene in their order, and count them by stratum.

    Without limits tiles pass one by one; with one, as many tiles as it allows are held in memory.
    """
    passed = _by_share(tiles, rules, tally)
    if rules.max_tiles_per_stratum is None and rules.max_tiles_per_scene is None:
        for _, name, tile in passed:
            tally.kept[name] += 1
            yield tile
        return
    for name, tile in _lowest(passed, rules, tally):
        tally.kept[name] += 1
        yield tile


def _by_share(tiles: Iterable[Tile], rules: Sampling, tally: Tally) -> Iterator[tuple[float, str, Tile]]:
    for tile in tiles:
        name = stratum(tile.meta, rules)
        tally.had[name] += 1
        number = chance(tile.key, rules.seed)
        if number < share_of(name, rules.keep):
            yield number, name, tile
        else:
            tally.dropped["sampling"] += 1


def _lowest(passed: Iterable[tuple[float, str, Tile]], rules: Sampling, tally: Tally) -> list[tuple[str, Tile]]:
    """Keep the lowest numbers of each stratum, then of the scene; no more than these are ever held."""
    limits = [limit for limit in (rules.max_tiles_per_stratum, rules.max_tiles_per_scene) if limit is not None]
    held: dict[str, list[tuple[float, int, str, Tile]]] = {}
    count = 0
    for count, (number, name, tile) in enumerate(passed, 1):
        heap = held.setdefault(name, [])
        heapq.heappush(heap, (-number, count, name, tile))  # the greatest number is the first to go
        if len(heap) > min(limits):
            heapq.heappop(heap)
    lowest = sorted((entry for heap in held.values() for entry in heap), key=lambda entry: (-entry[0], entry[1]))
    chosen = sorted(lowest[: rules.max_tiles_per_scene], key=lambda entry: entry[1])
    if count > len(chosen):
        tally.dropped["sampling"] += count - len(chosen)
    return [(name, tile) for _, _, name, tile in chosen]
