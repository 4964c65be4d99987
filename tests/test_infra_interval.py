"""How often to save, against the figures of the formula's authors' rule and against trying all intervals."""

import pytest

from infra.cli import app
from infra.errors import UsageError
from infra.interval import best_interval_s


def test_a_node_of_the_spot_market_and_64_steady_ones() -> None:
    assert best_interval_s(10, 2 * 3600) == pytest.approx(380, abs=1)
    assert best_interval_s(10, 33 * 86400) / 3600 == pytest.approx(2.1, abs=0.01)


def test_no_other_interval_wastes_less() -> None:
    """Waste by the second: a save each interval, and half an interval lost with each failure."""
    save_s, failure_s = 12.0, 5000.0
    best = min(range(1, 5000), key=lambda interval: save_s / interval + interval / 2 / failure_s)
    assert best_interval_s(save_s, failure_s) == pytest.approx(best, abs=1)


def test_the_command_gives_steps(capsys: pytest.CaptureFixture[str]) -> None:
    app(["save-every", "--save-s", "10", "--failure-s", "7200", "--step-s", "0.4"], result_action="return_value")
    assert capsys.readouterr().out == "every 379 s: --checkpoint.every 949\n"


def test_times_are_positive() -> None:
    with pytest.raises(UsageError, match="positive seconds; got 0 and 5"):
        best_interval_s(0, 5)
