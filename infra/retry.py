"""Going on through bad weather: repeated attempts with jitter, a budget and a deadline."""

import itertools
import math
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from infra.errors import UsageError
from infra.objects import NotFound, Unreachable

T = TypeVar("T")

_RANDOM = random.SystemRandom()  # forked processes must not draw the same waits
_BUDGET = 20.0
_REFUND = 0.25


class Transient(Exception):
    """The attempt failed in a way in which the next may not."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a remote store is given, all in seconds.

    ``deadline_s`` bounds one operation with all its attempts; the last attempt may run over it by its own timeouts.
    ``first_contact_s`` bounds it as long as nothing has ever come back, so that a mistyped endpoint is told soon.
    """

    deadline_s: float = 180.0
    first_contact_s: float = 15.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 10.0
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0

    @staticmethod
    def from_environment() -> "RetryPolicy":
        """Take the deadline from ``SARSENSE_S3_DEADLINE_S`` if it is set.

        Raises UsageError where that is no positive number.
        """
        text = os.environ.get("SARSENSE_S3_DEADLINE_S")
        if text is None:
            return RetryPolicy()
        try:
            deadline = float(text)
        except ValueError:
            deadline = math.nan
        if not 0 < deadline < math.inf:
            raise UsageError(f"SARSENSE_S3_DEADLINE_S is {text!r}: expected a number of seconds, such as 180")
        return RetryPolicy(deadline_s=deadline, first_contact_s=min(deadline, RetryPolicy().first_contact_s))


class Retrier:
    """Repeats attempts after a full-jitter wait that doubles its bound each time.

    The budget is shared by all operations: each retry takes 1 of it, each success gives a quarter back. While it
    is empty every wait is drawn from the longest range, so that many readers do not storm a server in trouble.
    """

    def __init__(self, policy: RetryPolicy, reached: bool = False) -> None:
        self.reached = reached
        self.retries = 0
        self._policy = policy
        self._budget = _BUDGET
        self._lock = threading.Lock()

    def call(self, attempt: Callable[[], T], place: str) -> T:
        """Run ``attempt`` until it does not raise Transient. Raises Unreachable, naming ``place``, at the deadline."""
        begin = time.monotonic()
        for number in itertools.count():
            try:
                result = attempt()
            except NotFound:
                self.reached = True
                raise
            except Transient as fault:
                wait = self._wait_s(number)
                allowed = self._policy.deadline_s if self.reached else self._policy.first_contact_s
                if time.monotonic() + wait > begin + allowed:
                    raise Unreachable(self._given_up(place, fault, number + 1, time.monotonic() - begin)) from fault
                time.sleep(wait)
            else:
                self._succeeded()
                return result
        raise AssertionError("unreachable")

    def _wait_s(self, number: int) -> float:
        with self._lock:
            spare = self._budget >= 1
            self._budget -= spare
            self.retries += 1
        bound = self._policy.first_wait_s * 2 ** min(number, 30) if spare else self._policy.longest_wait_s
        return _RANDOM.uniform(0, min(bound, self._policy.longest_wait_s))

    def _succeeded(self) -> None:
        with self._lock:
            self._budget = min(_BUDGET, self._budget + _REFUND)
        self.reached = True

    def _given_up(self, place: str, fault: Transient, attempts: int, elapsed_s: float) -> str:
        tried = f"gave up on {place} after {attempts} attempts in {elapsed_s:.1f} s: {fault}"
        if self.reached:
            return f"{tried}; what was stored so far stays valid, run the same command again once the server is well"
        return f"{tried}; check that the server is up and that AWS_ENDPOINT_URL and the network lead to it"
