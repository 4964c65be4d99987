"""How often to save: what saving costs against what a failure costs."""

import math

from infra.errors import UsageError


def best_interval_s(save_s: float, between_failures_s: float) -> float:
    """Give the seconds between checkpoints that lose least time, ``sqrt(2 * save_s * between_failures_s)``.

    ``save_s`` is how long training stands still for one, ``between_failures_s`` the mean time between failures of the
    whole job (of one node divided by the nodes). Young 1974, the first order of Daly 2006. Raises UsageError.
    """
    if save_s <= 0 or between_failures_s <= 0:
        raise UsageError(f"both times are positive seconds; got {save_s:g} and {between_failures_s:g}")
    return math.sqrt(2 * save_s * between_failures_s)
