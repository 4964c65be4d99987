"""The simulated Sentinel-1 acquisition: its geometry, calibration and noise tables, and its digital numbers."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ingest.simulate_pass import ImageGrid, Orbit, Vector, View
from ingest.simulate_xml import as_written

LOOKS = 4.4
"""Equivalent number of looks of an IW GRD product in high resolution (ESA product definition)."""

SPACING_M = 10.0
SWATHS = ("IW1", "IW2", "IW3")
_HEIGHT_M = 693_000.0
_INCIDENCE_DEG = 38.9
_HEADING_DEG = {"Descending": 193.7, "Ascending": 346.3}
_PIXEL_STEP = 40
_LINE_STEP = 668
_ORBITS_PER_SECOND = 175 / (12 * 86_400)
# One known acquisition of each satellite: its time and absolute orbit, and the orbit that counts as relative orbit 1.
_KNOWN_ORBIT = {
    "S1A": (datetime(2021, 1, 19, 3, 16, 53, tzinfo=UTC), 36_201, 73),
    "S1B": (datetime(2021, 12, 23, 5, 11, 22, tzinfo=UTC), 30_148, 27),
}
MISSIONS = tuple(_KNOWN_ORBIT)


@dataclass(frozen=True)
class Lut:
    """A table over lines and pixels, (lines, pixels), read bilinearly: first along the pixels, then the lines."""

    lines: NDArray[np.int64]
    pixels: NDArray[np.int64]
    values: NDArray[np.float64]
    cols: int

    @cached_property
    def _wide(self) -> NDArray[np.float64]:
        every_col = np.arange(self.cols)
        return np.stack([np.interp(every_col, self.pixels, vector) for vector in self.values])

    def block(self, first_row: int, rows: int) -> NDArray[np.float64]:
        """Interpolate whole image lines, (rows, cols)."""
        row = np.arange(first_row, first_row + rows)
        below = np.clip(np.searchsorted(self.lines, row, side="right") - 1, 0, len(self.lines) - 2)
        share = ((row - self.lines[below]) / (self.lines[below + 1] - self.lines[below]))[:, None]
        return self._wide[below] * (1.0 - share) + self._wide[below + 1] * share


@dataclass(frozen=True, slots=True)
class AzimuthNoise:
    """How noise varies along the lines of one sub-swath: lines, factors, and the samples it covers (both ends in)."""

    swath: str
    first_sample: int
    last_sample: int
    lines: NDArray[np.int64]
    factors: NDArray[np.float64]


@dataclass(frozen=True)
class Acquisition:
    """One pass of a Sentinel-1 satellite in IW mode over a grid on the ground."""

    grid: ImageGrid
    start: datetime
    mission: str
    direction: str

    @classmethod
    def heading_deg(cls, direction: str) -> float:
        """Give the heading of an ascending or descending pass in degrees from north."""
        return _HEADING_DEG[direction]

    @cached_property
    def orbit(self) -> Orbit:
        """The circular orbit that sees the grid's middle at the middle of the swath."""
        row, col = (self.grid.rows - 1) / 2, (self.grid.cols - 1) / 2
        ahead = self.grid.lonlat(np.array([row, row + 1.0]), np.array([col, col]))
        return Orbit.over(*ahead, _HEIGHT_M, _INCIDENCE_DEG)

    def view(self, row: Vector, col: Vector) -> View:
        """Tell how the satellite sees pixels."""
        return self.orbit.see(*self.grid.lonlat(row, col))

    @cached_property
    def _ends_s(self) -> tuple[float, float]:
        col = np.full(2, (self.grid.cols - 1) / 2)
        first, last = self.view(np.array([0.0, self.grid.rows - 1.0]), col).time_s
        return float(first), float(last)

    @property
    def line_interval_s(self) -> float:
        """Time between two lines in seconds."""
        first, last = self._ends_s
        return float(as_written(np.array([(last - first) / (self.grid.rows - 1)]), 15)[0])

    def at_line(self, line: float) -> datetime:
        """Give the time at which a line was sensed; lines outside the image are extrapolated."""
        return self.start + timedelta(seconds=line * self.line_interval_s)

    def at_pass(self, time_s: float) -> datetime:
        """Give the time of a moment on the orbit."""
        return self.start + timedelta(seconds=time_s - self._ends_s[0])

    def of_pass(self, time: datetime) -> float:
        """Give the moment on the orbit of a time."""
        return (time - self.start).total_seconds() + self._ends_s[0]

    @property
    def stop(self) -> datetime:
        """Time of the last line."""
        return self.at_line(self.grid.rows - 1)

    @property
    def ascending_node(self) -> datetime:
        """Time of the last northward crossing of the equator."""
        angle = math.atan2(-self.orbit.up[2], self.orbit.ahead[2]) % (2 * math.pi) - 2 * math.pi
        return self.at_pass(angle / self.orbit.rate_rad_s)

    @property
    def absolute_orbit(self) -> int:
        """Number of the orbit since launch."""
        when, orbit, _ = _KNOWN_ORBIT[self.mission]
        return max(1, orbit + round((self.start - when).total_seconds() * _ORBITS_PER_SECOND))

    @property
    def relative_orbit(self) -> int:
        """Number of the orbit in the cycle of 175."""
        return (self.absolute_orbit - _KNOWN_ORBIT[self.mission][2]) % 175 + 1

    @property
    def data_take(self) -> int:
        """Number of the data take."""
        return self.absolute_orbit * 8 & 0xFFFFFF

    @cached_property
    def pixels(self) -> NDArray[np.int64]:
        """Samples at which tables are given: every 40th and the last."""
        last = self.grid.cols - 1
        return np.append(np.arange(0, last, _PIXEL_STEP), last)

    @property
    def _line_step(self) -> int:
        return min(_LINE_STEP, max(1, (self.grid.rows - 1) // 4))

    @cached_property
    def calibration(self) -> dict[str, Lut]:
        """Amplitude tables sigmaNought, betaNought, gamma and dn; the last line lies beyond the image."""
        lines = np.arange(0, self.grid.rows + self._line_step, self._line_step)
        line, pixel = np.meshgrid(lines.astype(float), self.pixels.astype(float), indexing="ij")
        view = self.view(line.ravel(), pixel.ravel())
        incidence = np.radians(view.incidence_deg).reshape(line.shape)
        across, along = pixel / self.grid.cols, line / self.grid.rows
        beta = 474.0 * (1.0 + 0.055 * np.sin(4.2 * across + 0.4) + 0.012 * np.cos(3.0 * along))
        tables = {
            "sigmaNought": beta / np.sqrt(np.sin(incidence)),
            "betaNought": beta,
            "gamma": beta / np.sqrt(np.tan(incidence)),
            "dn": np.full_like(beta, 401.5858),
        }
        return {k: Lut(lines, self.pixels, as_written(v), self.grid.cols) for k, v in tables.items()}

    def swath_samples(self) -> list[tuple[str, int, int]]:
        """Give the samples of each sub-swath, both ends in."""
        cuts = [0, round(0.3405 * self.grid.cols), round(0.678 * self.grid.cols), self.grid.cols]
        return [(s, a, b - 1) for s, a, b in zip(SWATHS, cuts, cuts[1:], strict=False)]

    def noise_range(self, polarisation: str) -> Lut:
        """Noise power over range in DN squared; 0 at the samples where the far border is black."""
        last = self.grid.rows - 1
        lines = np.append(np.arange(0, last, self._line_step), last)
        line, pixel = np.meshgrid(lines.astype(float), self.pixels.astype(float), indexing="ij")
        level = np.zeros_like(line)
        for number, (_, first, final) in enumerate(self.swath_samples()):
            u = (pixel - first) / max(1, final - first)
            inside = (pixel >= first) & (pixel <= final)
            bowl = 560.0 + 90.0 * number + 900.0 * (u - 0.5 - 0.05 * number) ** 2 * 4.0
            level = np.where(inside, bowl, level)
        level *= (1.0 + 0.08 * line / self.grid.rows) * (1.0 if polarisation[0] == polarisation[1] else 0.94)
        level[pixel >= self.far_border(line)] = 0.0
        return Lut(lines, self.pixels, as_written(level), self.grid.cols)

    def noise_azimuth(self) -> list[AzimuthNoise]:
        """Noise factor along the lines of each sub-swath: the scalloping of the bursts."""
        last = self.grid.rows - 1
        lines = np.append(np.arange(0, last, 10), last)
        blocks = []
        for number, (swath, first, final) in enumerate(self.swath_samples()):
            wave = np.cos(2 * np.pi * (lines / max(300.0, last / 9) + number / 3))
            factors = as_written(1.05 + 0.06 * wave - 0.01 * number)
            blocks.append(AzimuthNoise(swath, first, final, lines, factors))
        return blocks

    def near_border(self, line: NDArray[np.float64]) -> NDArray[np.float64]:
        """First sample of a line that holds data."""
        return 3.0 + np.floor(5.0 * line / self.grid.rows)

    def far_border(self, line: NDArray[np.float64]) -> NDArray[np.float64]:
        """First sample of a line that is black fill again."""
        return self.grid.cols - 2.0 - np.floor(6.0 * line / self.grid.rows)


class Detector:
    """Turns backscatter into digital numbers with the published tables: DN^2 = sigma0 * speckle * A^2 + eta."""

    def __init__(self, acquisition: Acquisition, polarisation: str) -> None:
        self._gain = acquisition.calibration["sigmaNought"]
        self._noise = acquisition.noise_range(polarisation)
        self._blocks = acquisition.noise_azimuth()

    def noise(self, first_row: int, rows: int) -> NDArray[np.float64]:
        """Noise power of whole lines in DN squared, (rows, cols)."""
        eta = self._noise.block(first_row, rows)
        row = np.arange(first_row, first_row + rows)
        for block in self._blocks:
            factor = np.interp(row, block.lines, block.factors)[:, None]
            eta[:, block.first_sample : block.last_sample + 1] *= factor
        return eta

    def numbers(self, power: NDArray[np.float32], first_row: int) -> NDArray[np.uint16]:
        """Digital numbers of speckled sigma0, (rows, cols); 0 where the power is NaN, at least 1 elsewhere."""
        rows = power.shape[0]
        valid = ~np.isnan(power)
        squared = np.where(valid, power, 0.0) * self._gain.block(first_row, rows) ** 2
        squared += self.noise(first_row, rows)
        return np.where(valid, np.clip(np.rint(np.sqrt(squared)), 1, 65535), 0).astype(np.uint16)
