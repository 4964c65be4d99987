"""Garbage collection over random histories: whatever was done before, no version that counts loses a byte."""

import numpy as np
import pytest
from corpora import make_corpus

from infra.store import Store
from shards import derive
from shards.heads import head, set_tag, tags
from shards.keep import garbage, mark, sweep
from shards.manifest import ANY, Lineage, add_version, publish
from shards.reader import Corpus
from shards.verify import verify

DELAY_S = 100.0


class History:
    """One corpus and what is done to it, all drawn from one seed."""

    def __init__(self, histories: int, number: int) -> None:
        self.url = f"memory://garbage-{histories}-{number}"
        self.draw = np.random.default_rng(number)
        self.store: Store = make_corpus(self.url, counts=(2, 3, 1), max_bytes=4096)[0]
        self.now = 0.0
        self.strays: set[str] = set()

    def select(self) -> None:
        """Make a version of some tiles of a version, and name it, publish it, or leave it without a name."""
        names = [head(self.store)[1], *tags(self.store).values()]
        corpus = Corpus.open(f"{self.url}@{names[self.draw.integers(len(names))]}")
        chosen = self.draw.random(len(corpus)) < 0.6
        chosen[self.draw.integers(len(corpus))] = True
        made = derive.take(corpus, chosen, Lineage(made_by="select", parents=(corpus.manifest.digest,)))
        end = self.draw.integers(3)
        if end == 0:
            publish(self.store, made, ANY)
            return
        add_version(self.store, made)
        if end == 1:
            set_tag(self.store, f"tag-{self.draw.integers(3)}", made.digest, move=True)

    def untag(self) -> None:
        """Move a tag to the current version: what it named may be garbage from now on."""
        for name in list(tags(self.store))[:1]:
            set_tag(self.store, name, str(head(self.store)[1]), move=True)

    def stray(self) -> None:
        """Leave what a build that never ended would leave."""
        key = f"shards/stray-{self.draw.integers(1000)}.tar"
        self.store.put(key, b"x" * 512)
        self.strays.add(key)

    def collect(self) -> None:
        """Mark what is garbage now, and delete what was garbage for long enough."""
        found = garbage(self.store, versions=bool(self.draw.integers(2)), unfinished=bool(self.draw.integers(2)))
        self.now += float(self.draw.uniform(0, 2 * DELAY_S))
        sweep(self.store, found, self.now, DELAY_S)
        mark(self.store, found, self.now)

    def live(self) -> list[str]:
        """Give the digests of the current version and of those with a tag."""
        return sorted({str(head(self.store)[1]), *tags(self.store).values()})


@pytest.mark.parametrize("histories", [30, pytest.param(500, marks=pytest.mark.soak)])
def test_over_any_history_no_version_that_counts_loses_a_byte(histories: int) -> None:
    deleted = 0
    for number in range(histories):
        history = History(histories, number)
        steps = (history.select, history.select, history.untag, history.stray, history.collect, history.collect)
        for _ in range(12):
            steps[history.draw.integers(len(steps))]()
        for digest in history.live():
            corpus = Corpus.open(f"{history.url}@{digest}")
            assert corpus.manifest.digest == digest
            assert verify(corpus, deep=True).ok, (number, digest)
        left = {o.key for o in history.store.list("shards/")}
        deleted += len(history.strays - left)
        history.now += 10 * DELAY_S
        found = garbage(history.store, versions=True, unfinished=True)
        mark(history.store, found, history.now)
        history.now += 2 * DELAY_S
        sweep(history.store, garbage(history.store, versions=True, unfinished=True), history.now, DELAY_S)
        assert garbage(history.store, versions=True, unfinished=True).objects == ()
        assert not history.strays & {o.key for o in history.store.list("shards/")}
        assert str(head(history.store)[1]) in history.live()
        assert all(verify(Corpus.open(f"{history.url}@{d}"), deep=True).ok for d in history.live())
    assert deleted > histories / 4, "the histories deleted hardly anything: nothing was tried"
