import threading

import pytest

from ingest.threads import over_lines, thread_count


@pytest.mark.parametrize(
    ("lines", "least", "threads", "count"), [(100, 10, 3, 3), (100, 60, 8, 1), (7, 1, 4, 4), (1, 64, None, 1)]
)
def test_every_line_is_worked_on_once(lines: int, least: int, threads: int | None, count: int) -> None:
    parts: list[tuple[int, int]] = []
    lock = threading.Lock()

    def work(first: int, last: int) -> None:
        with lock:
            parts.append((first, last))

    over_lines(work, lines, least, threads)
    assert len(parts) == count
    assert sorted(line for first, last in parts for line in range(first, last)) == list(range(lines))
    assert all(last - first >= least for first, last in parts) or count == 1


def test_errors_of_a_thread_are_raised() -> None:
    def work(first: int, last: int) -> None:
        raise ArithmeticError(f"{first} to {last}")

    with pytest.raises(ArithmeticError, match="0 to 50"):
        over_lines(work, 100, 1, 2)


def test_the_usual_variables_limit_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "64")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert thread_count() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    assert thread_count() == 1
