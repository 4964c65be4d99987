"""Fanning out on Ray: every item comes back, whatever became of it."""

import os
import sys

import pytest
from ray import cloudpickle

from infra import cluster
from infra.errors import ResourceError, UsageError

# Workers cannot import this file: its functions travel with their code.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def _square_or_die(number: int) -> int:
    if number == 3:
        raise UsageError("three is refused")
    if number == 4:
        os._exit(1)
    return number * number


@pytest.fixture(scope="module")
def cpus():
    with cluster.session(cpus=2) as number:
        yield number


def test_each_gives_every_item_back_once(cpus: int) -> None:
    done = {d.item: d for d in cluster.each(_square_or_die, range(8), slots=cpus, attempts=2)}
    assert sorted(done) == list(range(8))
    assert {n: d.value for n, d in done.items() if d.error is None} == {n: n * n for n in (0, 1, 2, 5, 6, 7)}


def test_an_exception_of_the_work_comes_back_as_it_was(cpus: int) -> None:
    (done,) = cluster.each(_square_or_die, [3], slots=cpus)
    assert isinstance(done.error, UsageError)
    assert str(done.error) == "three is refused"


def test_an_item_that_kills_its_workers_is_given_up_after_its_attempts(cpus: int) -> None:
    done = {d.item: d for d in cluster.each(_square_or_die, [4, 5], slots=1, attempts=3)}
    assert type(done[4].error).__name__ == "WorkerCrashedError"
    assert done[5].value == 25


def test_a_session_inside_a_session_uses_the_open_one(cpus: int) -> None:
    with cluster.session() as inner:
        assert inner == cpus == 2


def test_no_cluster_at_the_address_is_one_clear_error() -> None:
    if cluster.ray.is_initialized():
        cluster.ray.shutdown()
    with pytest.raises(ResourceError, match=r"no Ray cluster at 127.0.0.1:1"), cluster.session("127.0.0.1:1"):
        pass
