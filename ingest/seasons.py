"""When a scene was taken, as a composite counts it: season of a year, and direction of flight."""

from datetime import UTC, datetime

SEASONS = ("winter", "spring", "summer", "fall")
DIRECTIONS = ("ascending", "descending")


def season_of(time: str, year: int) -> int | None:
    """Give the season (0 winter .. 3 fall) of ``year`` that an ISO 8601 time lies in, or None.

    Meteorological seasons of the north: winter is December of the year before to February, spring March to May,
    summer June to August, fall September to November (Phi-lab, "SSL for SAR", data set S1GRD).
    """
    when = datetime.fromisoformat(time).astimezone(UTC)
    month = (when.year - year) * 12 + when.month  # 0 is December of the year before
    return month // 3 if 0 <= month <= 11 else None
