"""S3 through bad weather: lost answers, errors, resets, silence and damaged bytes, against the real server."""

import random
import threading
import time
from collections.abc import Iterator

import pytest
from fault_proxy import FAULTS, Weather, weather_before
from s3_server import S3Server

from infra.retry import RetryPolicy
from infra.s3 import S3Store
from infra.store import AlreadyExists, Corrupt, NotFound, Unreachable

QUICK = RetryPolicy(
    deadline_s=20, first_contact_s=20, first_wait_s=0.005, longest_wait_s=0.1, connect_timeout_s=1, read_timeout_s=1
)


@pytest.fixture
def weather(s3_url: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Weather]:
    with weather_before(s3_server.environment["AWS_ENDPOINT_URL"]) as weather:
        monkeypatch.setenv("AWS_ENDPOINT_URL", weather.endpoint)
        yield weather


@pytest.fixture
def store(s3_url: str, weather: Weather) -> S3Store:
    return S3Store(s3_url.removeprefix("s3://"), "corpus", QUICK)


def on(*faults: str | None):
    """Let the first requests meet these faults, and all later ones fair weather."""
    return lambda method, number: faults[number] if number < len(faults) else None


def test_a_put_whose_answer_was_lost_is_a_success(store: S3Store, weather: Weather) -> None:
    weather.fault = on("lost answer")
    store.put_once("manifest.json", b"mine")
    assert store.get("manifest.json") == b"mine"
    assert weather.requests == ["PUT", "PUT", "HEAD", "GET"]


def test_a_lost_answer_and_a_lost_look_are_a_success(store: S3Store, weather: Weather) -> None:
    weather.fault = on("lost answer", "lost answer", "503", None, "reset")
    store.put_once("manifest.json", b"mine")
    assert store.get("manifest.json") == b"mine"


def test_a_lost_refusal_stays_a_refusal(store: S3Store, weather: Weather) -> None:
    store.put_once("manifest.json", b"same bytes")
    weather.fault = lambda method, number: "lost answer" if number == 1 else None
    with pytest.raises(AlreadyExists, match=r"corpus/manifest\.json is already there"):
        store.put_once("manifest.json", b"same bytes")
    assert weather.requests == ["PUT", "PUT", "PUT", "HEAD"]


def test_another_writer_between_our_attempts_wins(store: S3Store, weather: Weather) -> None:
    other = S3Store(store.url.split("/")[2], "corpus", QUICK)

    def fault(method: str, number: int) -> str | None:
        if number > 0:
            return None
        other.put_once("manifest.json", b"theirs")
        return "reset"

    weather.fault = fault
    with pytest.raises(AlreadyExists):
        store.put_once("manifest.json", b"mine")
    assert store.get("manifest.json") == b"theirs"


def test_an_unproven_put_is_neither_success_nor_conflict(store: S3Store, weather: Weather) -> None:
    store = S3Store(store.url.split("/")[2], "corpus", RetryPolicy(1, 1, 0.01, 0.1, 1, 1))
    weather.fault = lambda method, number: "lost answer"
    with pytest.raises(Unreachable):
        store.put_once("manifest.json", b"mine")


def test_racing_writers_in_bad_weather_have_one_winner(store: S3Store, weather: Weather) -> None:
    chance = random.Random(5)
    weather.fault = lambda method, number: chance.choice(FAULTS[:4]) if chance.random() < 0.25 else None
    rounds, writers = 8, 4
    won: list[tuple[int, int]] = []

    def write(writer: int) -> None:
        for number in range(rounds):
            try:
                store.put_once(f"race/{number}", b"%d" % writer)
            except AlreadyExists:
                continue
            won.append((number, writer))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in won) == list(range(rounds))
    assert all(store.get(f"race/{number}") == b"%d" % writer for number, writer in won)


@pytest.mark.parametrize(("share", "operations", "most_extra"), [(0.05, 200, 0.2), (0.20, 200, 0.5)])
def test_errors_and_resets_end_in_the_same_bytes(
    store: S3Store, weather: Weather, share: float, operations: int, most_extra: float
) -> None:
    chance = random.Random(7)
    weather.fault = lambda method, number: chance.choice(FAULTS[:5]) if chance.random() < share else None
    written = {}
    for number in range(operations // 4):
        key, data = f"shards/{number:03d}", chance.randbytes(2000)
        (store.put_once if number % 2 else store.put)(key, data)
        written[key] = data
    assert {found.key: found.size for found in store.list("shards/")} == dict.fromkeys(written, 2000)
    for key, data in written.items():
        assert store.get(key) == data
        assert store.get_range(key, 500, 1000) == data[500:1500]
        assert store.info(key).size == 2000
    extra = len(weather.requests) / operations - 1
    assert 0 < extra <= most_extra


def test_a_silent_server_costs_one_read_timeout(store: S3Store, weather: Weather) -> None:
    store.put("a", b"1")
    weather.fault = lambda method, number: "silence" if number == 1 else None
    begin = time.monotonic()
    assert store.get("a") == b"1"
    assert 1.0 <= time.monotonic() - begin < 3.0


@pytest.mark.parametrize("fault", FAULTS)
def test_when_nothing_works_the_failure_is_clear_and_in_time(store: S3Store, weather: Weather, fault: str) -> None:
    store.put("a", b"1" * 1000)
    store = S3Store(store.url.split("/")[2], "corpus", RetryPolicy(1.5, 1.5, 0.02, 0.2, 0.5, 0.5))
    weather.fault = lambda method, number: fault
    begin, before = time.monotonic(), len(weather.requests)
    with pytest.raises(Unreachable, match=r"gave up on s3://.*/corpus/a after \d+ attempts in [\d.]+ s: "):
        store.get("a")
    assert time.monotonic() - begin < 1.5 + 0.5 + 0.5
    assert 2 <= len(weather.requests) - before <= 40


def test_bytes_damaged_on_the_way_up_are_sent_again(store: S3Store, weather: Weather, s3_server: S3Server) -> None:
    if not s3_server.real:
        pytest.skip("the emulator never rejects a bad checksum")
    weather.fault = on("flip up", None, "flip up")
    store.put("a", b"mine" * 100)
    store.put_once("b", b"mine" * 100)
    assert weather.requests == ["PUT"] * 4
    assert store.get("a") == store.get("b") == b"mine" * 100


def test_bytes_damaged_on_the_way_down_are_read_again(store: S3Store, weather: Weather) -> None:
    store.put("a", b"mine" * 100)
    weather.fault = lambda method, number: "flip down" if number == 1 else None
    assert store.get("a") == b"mine" * 100
    assert weather.requests == ["PUT", "GET", "GET"]


def test_bytes_damaged_in_the_store_are_refused(store: S3Store, weather: Weather) -> None:
    store.put("a", b"mine" * 100)
    weather.fault = lambda method, number: "flip down"
    with pytest.raises(Corrupt, match=r"corpus/a is damaged: its CRC32C is [0-9a-f]{8}, [0-9a-f]{8} was stored"):
        store.get("a")


def test_a_refusal_that_breaks_off_is_asked_for_again(store: S3Store, weather: Weather) -> None:
    weather.fault = on("short answer")
    with pytest.raises(NotFound):
        store.get("a")
    with pytest.raises(NotFound):
        store.get_range("a", 0, 5)
    assert weather.requests == ["GET"] * 3


def test_a_missing_key_is_not_asked_for_twice(store: S3Store, weather: Weather) -> None:
    with pytest.raises(NotFound):
        store.get("a")
    assert weather.requests == ["GET"]
    with pytest.raises(NotFound):
        store.info("a")
    assert weather.requests == ["GET", "HEAD"]
