"""Readers of others for bench_feed.py: the same tiles in each one's own format, the same decode, batches of arrays.

Each function writes what it needs below ``folder`` once and gives a reader of one pass; it raises ImportError where its
library is not installed. Workers are processes, but for spdl, whose workers are threads like ours.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from shards.codec import decode_pixels
from shards.reader import Corpus

SHAPE = (2, 256, 256)
Read = Callable[[], int]


def decoded(payload: bytes, codec: str) -> np.ndarray:
    return decode_pixels(payload, codec, SHAPE, "<u2")


def of_workers(workers: int) -> dict:
    """Workers that live on between passes, so that only the first pass, which does not count, starts them."""
    return {"num_workers": workers, "persistent_workers": bool(workers)}


def stored(corpus: Corpus) -> Iterator[bytes]:
    for i in range(len(corpus)):
        found = corpus.spans.stored(i)
        yield found.member(corpus.rows.offset[i], corpus.rows.length[i]).tobytes()


def webdataset(corpus: Corpus, folder: Path, workers: int, batch: int) -> Read:
    import webdataset as wds

    codec = corpus.manifest.codec
    urls = [str(Path(corpus.store.root) / shard.key) for shard in corpus.manifest.shards]

    def pixels(sample: dict) -> np.ndarray:
        return sample["npy"] if codec == "npy" else decoded(sample["blosc2"], codec)

    data = wds.WebDataset(urls, shardshuffle=len(urls), seed=1).shuffle(1000).decode().map(pixels)
    data = data.batched(batch, collation_fn=np.stack)
    loader = wds.WebLoader(data, batch_size=None, **of_workers(workers)) if workers else data
    return lambda: sum(len(found) for found in loader)


def litdata(corpus: Corpus, folder: Path, workers: int, batch: int) -> Read:
    import litdata as ld
    from litdata.streaming.writer import BinaryWriter

    codec, place = corpus.manifest.codec, folder / f"litdata-{corpus.manifest.codec}"
    if not (place / "index.json").exists():
        place.mkdir()
        writer = BinaryWriter(str(place), chunk_bytes="64MB")
        for n, payload in enumerate(stored(corpus)):
            writer.add_item(n, {"pixels": payload})
        writer.done()
        writer.merge()

    class Decoded(ld.StreamingDataset):
        def __getitem__(self, index: object) -> np.ndarray:
            return decoded(super().__getitem__(index)["pixels"], codec)

    data = Decoded(str(place), shuffle=True, seed=1)
    loader = ld.StreamingDataLoader(data, batch_size=batch, collate_fn=np.stack, **of_workers(workers))
    return lambda: sum(len(found) for found in loader)


def mosaicml(corpus: Corpus, folder: Path, workers: int, batch: int) -> Read:
    import streaming
    from torch.utils.data import DataLoader

    codec, place = corpus.manifest.codec, folder / f"mosaicml-{corpus.manifest.codec}"
    if not place.exists():
        with streaming.MDSWriter(out=str(place), columns={"pixels": "bytes"}) as writer:
            for payload in stored(corpus):
                writer.write({"pixels": payload})

    class Decoded(streaming.StreamingDataset):
        def __getitem__(self, index: object) -> np.ndarray:
            return decoded(super().__getitem__(index)["pixels"], codec)

    streaming.base.util.clean_stale_shared_memory()
    data = Decoded(local=str(place), shuffle=True, shuffle_seed=1, batch_size=batch)
    loader = DataLoader(data, batch_size=batch, collate_fn=np.stack, **of_workers(workers))
    return lambda: sum(len(found) for found in loader)


def grain(corpus: Corpus, folder: Path, workers: int, batch: int) -> Read:
    import grain.python as pg
    from array_record.python import array_record_data_source, array_record_module

    codec, place = corpus.manifest.codec, folder / f"{corpus.manifest.codec}.array_record"
    if not place.exists():
        writer = array_record_module.ArrayRecordWriter(str(place), "group_size:1,uncompressed")
        for payload in stored(corpus):
            writer.write(payload)
        writer.close()

    def read() -> int:
        source = array_record_data_source.ArrayRecordDataSource(str(place))
        data = pg.MapDataset.source(source).shuffle(seed=1).map(lambda payload: decoded(payload, codec))
        read_options = pg.ReadOptions(num_threads=max(1, workers), prefetch_buffer_size=2 * batch)
        data = data.to_iter_dataset(read_options).batch(batch, batch_fn=np.stack)
        return sum(len(found) for found in data)

    return read


def spdl(corpus: Corpus, folder: Path, workers: int, batch: int) -> Read:
    from spdl.pipeline import PipelineBuilder

    order = np.random.default_rng(1).permutation(len(corpus)).tolist()
    codec = corpus.manifest.codec

    def load(i: int) -> np.ndarray:
        found = corpus.spans.stored(i)  # spdl has no format of its own: our bytes, its threads
        return decode_pixels(found.member(corpus.rows.offset[i], corpus.rows.length[i]), codec, SHAPE, "<u2")

    def read() -> int:
        threads = max(1, workers)
        builder = PipelineBuilder().add_source(order).pipe(load, concurrency=threads).aggregate(batch).pipe(np.stack)
        pipeline = builder.add_sink(4).build(num_threads=threads)
        with pipeline.auto_stop():
            return sum(len(found) for found in pipeline)

    return read


PEERS = {"webdataset": webdataset, "litdata": litdata, "mosaicml": mosaicml, "grain": grain, "spdl": spdl}
