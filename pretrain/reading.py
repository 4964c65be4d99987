"""From the dials of reading to a feed: in this process, or from reader actors; with cache and numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import torch
from numpy.typing import NDArray

from infra.world import World
from pretrain.config import Reading
from shards.cache import GIB, SpanCache
from shards.feed import Draw, LocalFeed
from shards.metrics import Teller
from shards.plan import Plan
from shards.reader import Corpus

if TYPE_CHECKING:
    from shards.remote import RemoteFeed

CACHE = "~/.cache/sarsense/tiles"


def open_corpus(url: str, reading: Reading) -> Corpus:
    """Open a corpus with the cache that the dials ask for."""
    if not reading.cache_gib:
        return Corpus.open(url)
    folder = Path(reading.cache_folder or CACHE).expanduser()
    return Corpus.open(url, SpanCache(folder, round(reading.cache_gib * GIB)))


@contextmanager
def open_feed(
    reading: Reading, corpus: Corpus, plan: Plan, draw: Draw, world: World
) -> Iterator[Union[LocalFeed, "RemoteFeed"]]:
    """Give one rank's feed. For a GPU its batches lie in page-locked memory, which needs no further copy."""
    place: dict[str, Any] = {"rank": world.rank, "world": world.size, "ahead": reading.ahead}
    place |= {"connections": reading.connections, "on_corrupt": reading.on_corrupt}
    if world.device.type == "cuda":
        place["empty"] = page_locked
    if not reading.readers:
        yield LocalFeed(corpus, plan, draw, threads=reading.threads, **place)
        return
    from infra.cluster import session
    from shards.remote import Readers, RemoteFeed

    readers = Readers(reading.readers, reading.threads, reading.reader_cpus, reading.reader_resources)
    with session():
        yield RemoteFeed(corpus, plan, draw, readers=readers, **place)


def teller(reading: Reading, feed: Union[LocalFeed, "RemoteFeed"], world: World) -> Teller:
    """Give what tells the feed's numbers to the log, and to Prometheus where the dials name a folder."""
    file = None
    if reading.prometheus is not None:
        folder = Path(reading.prometheus)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"sarsense-rank-{world.rank}.prom"
    return Teller(feed, file, rank=str(world.rank))


def page_locked(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Make an array of undefined content that a GPU can read by itself."""
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    memory: NDArray[Any] = torch.empty(shape, dtype=kind, pin_memory=True).numpy()
    return memory
