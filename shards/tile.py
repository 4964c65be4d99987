"""One tile: the unit that is cut from a scene, stored in a shard and drawn by a learner."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

NO_DATA = 0
"""The code of a pixel without measurement, in every integer tile."""

MOST_CODE = 65535
"""The greatest code of a tile."""


class DbScale(BaseModel):
    """How decibels become uint16 codes: ``code = 1 + round((dB - floor_db) / step_db)``, 0 is no-data.

    Values below the floor (also zero and negative power) take code 1: they are measured, only dark.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    floor_db: float = Field(default=-60.0, ge=-200, le=100)
    step_db: float = Field(default=0.002, ge=1e-4, le=1)

    def encode(self, power: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Code linear power (any shape, NaN is no-data) as uint16, the same on every processor."""
        valid = ~np.isnan(power)
        least = _least_powers(self.floor_db, self.step_db)
        bounded = np.clip(np.where(valid, power, least[1]), least[1], least[MOST_CODE])
        level = np.log10(bounded, dtype=np.float32) * np.float32(10.0)
        guess = np.rint((level - np.float32(self.floor_db)) / np.float32(self.step_db)).astype(np.int32) + 1
        code = np.clip(guess, 1, MOST_CODE)
        # Logarithms differ in their last bit between processors; comparisons with a table do not.
        code += bounded >= least[code + 1]
        code -= (bounded < least[code]) & (code > 1)
        return np.where(valid, code, NO_DATA).astype(np.uint16)

    def decode(self, code: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Give decibels (float32) of codes; no-data becomes NaN."""
        level = np.float32(self.floor_db) + (code.astype(np.float32) - 1.0) * np.float32(self.step_db)
        return np.where(code == NO_DATA, np.float32(np.nan), level).astype(np.float32)


@functools.cache
def _least_powers(floor_db: float, step_db: float) -> NDArray[np.float32]:
    """Give the least power of every code, by code: entry 0 is unused, one more than the last is infinity."""
    levels_db = (floor_db + (code - 1.5) * step_db for code in range(MOST_CODE + 1))
    # No float32 is above 386 dB; codes of higher levels are never reached.
    return np.array([*(10.0 ** (level / 10.0) if level < 385 else np.inf for level in levels_db), np.inf], np.float32)


@dataclass(frozen=True, slots=True)
class Tile:
    """A cut of a scene with its place and provenance.

    ``key`` names the tile within its corpus: letters, digits, ``-`` and ``_`` only (no dot, no slash).
    ``pixels`` is (bands, rows, cols), uint16 codes of a :class:`DbScale`.
    ``label`` is (rows, cols) uint8 class ids of the legend, 255 where unlabelled, or None.
    ``meta`` is plain JSON data; the keys every tile has:

    ``scene`` id of the scene, ``sensor`` ("sentinel-1", "alos-2", "chip"), ``polarisations`` list in band order,
    ``window`` [row, col, rows, cols] in scene pixels, ``footprint`` [[lon, lat] x 4] clockwise from the
    upper left or None, ``time`` ISO 8601 UTC or None, ``valid_share`` 0..1, ``mean_db`` list per band.
    What else was measured has a column of its own in the index: shards.index.OPTIONAL.
    """

    key: str
    pixels: NDArray[np.uint16]
    meta: Mapping[str, Any]
    label: NDArray[np.uint8] | None = None
