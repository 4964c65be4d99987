"""What slopes do to a radar image: the area that a pixel really sees, shadow and layover.

Radiometric terrain flattening after Small (2011), "Flattening Gamma: Radiometric Terrain Correction for SAR Imagery",
IEEE TGRS 49(8): facets of the DEM are projected on the plane at right angles to the line of sight, and their areas
are summed where they fall in the image (facets that face away see nothing). With A_gamma that sum for a pixel, and
A_beta its area in the slant range plane (range spacing times azimuth spacing on the ground),

    gamma0_T = beta0 * A_beta / A_gamma

Ground in another slope's shadow still counts in the sum; on the map it is masked.
"""

import threading
from collections import OrderedDict
from functools import cached_property

import numba
import numpy as np
from numpy.typing import NDArray

from ingest.dem import Dem
from ingest.lattice import Lattice, interpolate
from ingest.orbit import seconds
from ingest.range_doppler import RadarGrid
from ingest.recipe import GridRules
from ingest.scene import SceneRejected, Window
from ingest.visibility import LEAST_TAN, MOST_TAN, find_hidden, steepness

Floats = NDArray[np.float64]

_TILE = (256, 512)
_TILES_KEPT = 256
_KNOT = 32
_BESIDE_GAP = 3


class Terrain:
    """The terrain under a map, seen by a radar; nothing of it depends on which windows are asked for.

    ``solved`` are the nodes of the lattice solved for the radar's image. Safe from several threads.
    """

    def __init__(self, lattice: Lattice, solved: Floats, heights: Dem, radar: RadarGrid, rules: GridRules) -> None:
        self._lattice, self._solved, self._heights = lattice, solved, heights
        self._radar, self._rules = radar, rules
        self._tiles: OrderedDict[tuple[int, int], NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()
        posting = heights.posting_m / lattice.spacing_m
        # Facets are about as large as those of the DEM, and a whole number of them or of pixels fits in the other.
        self._facet = max(1.0, np.floor(posting / 1.5)) if posting >= 1 else 1.0 / np.ceil(1.0 / posting)

    def flattened(self, beta0: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
        """Turn beta0 of an image window, (bands, rows, cols), into gamma0_T; NaN where too little ground is seen."""
        return np.asarray(beta0 / self.area_ratio(window), np.float32)

    def area_ratio(self, window: Window) -> NDArray[np.float32]:
        """Give A_gamma / A_beta of the image's pixels, (rows, cols); 1 / tan(incidence angle) on level ground.

        NaN where it is less than the rules' share of that.
        """
        out = np.empty((window.rows, window.cols), np.float32)
        for i in range(window.row // _TILE[0], (window.row + window.rows - 1) // _TILE[0] + 1):
            for j in range(window.col // _TILE[1], (window.col + window.cols - 1) // _TILE[1] + 1):
                tile, top, left = self._tile(i, j), i * _TILE[0], j * _TILE[1]
                rows = slice(max(window.row, top), min(window.row + window.rows, top + _TILE[0]))
                cols = slice(max(window.col, left), min(window.col + window.cols, left + _TILE[1]))
                out[_moved(rows, window.row), _moved(cols, window.col)] = tile[_moved(rows, top), _moved(cols, left)]
        return out

    def hidden(self, rows: Floats, cols: Floats) -> NDArray[np.bool_]:
        """Say which of the map's pixels, all pairs of rows (r,) and columns (c,) in steps of 1, the rules mask."""
        mask = self._rules.mask
        inside = np.zeros((len(rows), len(cols)), np.bool_)
        if mask != "none":
            inside |= self._unseen(rows, cols, mask == "shadow-layover")
        return inside

    def beside_gap(self, rows: Floats, cols: Floats) -> NDArray[np.bool_]:
        """Say which of the map's pixels lie so near to missing heights that the sum of areas may lack some."""
        m = _BESIDE_GAP
        gaps = np.isnan(self._heights.at(*(np.arange(a[0] - m, a[-1] + m + 1) for a in (rows, cols))))
        if not gaps.any():
            return np.zeros((len(rows), len(cols)), np.bool_)
        down = np.logical_or.reduce([gaps[k : k + len(rows)] for k in range(2 * m + 1)])
        return np.asarray(np.logical_or.reduce([down[:, k : k + len(cols)] for k in range(2 * m + 1)]))

    # Shadow and layover

    def _unseen(self, rows: Floats, cols: Floats, layover: bool) -> NDArray[np.bool_]:
        inner = self._heights.at(rows, cols)
        if not np.isfinite(inner).any():
            return np.zeros(inner.shape, np.bool_)
        reach = self._reach(rows, cols, float(np.nanmin(inner)), float(np.nanmax(inner)), layover)
        last = self._lattice.step * (np.array(self._solved.shape[:2]) - 1)
        down, right = (
            np.arange(max(a[0] - reach, 0), min(a[-1] + reach, end) + 1)
            for a, end in zip((rows, cols), last, strict=True)
        )
        heights = self._heights.at(down, right)
        if steepness(heights, self._lattice.spacing_m) < (LEAST_TAN if layover else 1 / MOST_TAN):
            return np.zeros(inner.shape, np.bool_)
        lines, samples = self._lattice.image(self._solved, down, right, heights)
        places = self._lattice.points(down, right, heights)
        cosines = _look_cosines(places, lines, *self._satellites(lines))
        away = self._lattice.at(self._away, rows, cols)
        inside = int(rows[0] - down[0]), int(cols[0] - right[0])
        return find_hidden(heights, samples, cosines, away, self._lattice.spacing_m, inside, layover)

    def _reach(self, rows: Floats, cols: Floats, low: float, high: float, layover: bool) -> int:
        """Give how many pixels away ground may lie that hides or is laid over pixels between two heights."""
        least, most = np.moveaxis(self._extremes, -1, 0)
        step = self._lattice.step
        i, j = (np.arange(n) * step for n in least.shape)
        down = np.maximum(0.0, np.maximum(i - rows[-1], rows[0] - i - step))[:, None]
        right = np.maximum(0.0, np.maximum(j - cols[-1], cols[0] - j - step))[None, :]
        away = np.hypot(down, right) * self._lattice.spacing_m
        reached = most - low > away / MOST_TAN
        if layover:
            reached |= (most - low > away * LEAST_TAN) | (high - least > away * LEAST_TAN)
        return int(np.ceil((np.maximum(down, right) + step)[reached].max(initial=0.0))) + 2

    @cached_property
    def _away(self) -> Floats:
        """Steps of one pixel, down and right, that lead away from the satellite along an image line: (n, m, 2)."""
        line, sample = self._solved[..., 0], self._solved[..., 3]
        line_down, line_right = np.gradient(line)
        sample_down, sample_right = np.gradient(sample)
        step = np.stack([-line_right, line_down], axis=-1)
        outward = np.sign(step[..., 0] * sample_down + step[..., 1] * sample_right)
        return np.asarray(step * (outward / np.linalg.norm(step, axis=-1))[..., None])

    @cached_property
    def _extremes(self) -> Floats:
        return self._heights.extremes()

    # Areas

    def _tile(self, i: int, j: int) -> NDArray[np.float32]:
        with self._lock:
            if (i, j) not in self._tiles:
                self._tiles[i, j] = self._ratio(i * _TILE[0], j * _TILE[1])
                while len(self._tiles) > _TILES_KEPT:
                    self._tiles.popitem(last=False)
            self._tiles.move_to_end((i, j))
            return self._tiles[i, j]

    def _ratio(self, top: int, left: int) -> NDArray[np.float32]:
        seen = self._seen_area(top, left)
        reference, flat = self._reference(top, left)
        ratio = seen / reference
        ratio[ratio < np.maximum(self._rules.min_area_share, 1e-6) * flat] = np.nan
        return ratio.astype(np.float32)

    def _seen_area(self, top: int, left: int) -> Floats:
        """Sum the facets that fall in an image tile, m^2."""
        area = np.zeros(_TILE)
        lines, samples = self._spans
        near = (lines[..., 1] >= top - 2) & (lines[..., 0] <= top + _TILE[0] + 2)
        near &= (samples[..., 1] >= left - 2) & (samples[..., 0] <= left + _TILE[1] + 2)
        if not near.any():
            return area
        down, right = (self._facet_corners(at) for at in np.nonzero(near))
        heights = self._heights.at(down, right)
        line, sample = self._lattice.image(self._solved, down, right, heights)
        satellites, first, step = self._satellites(np.array([top - 4.0, top + _TILE[0] + 4.0]))
        points = self._lattice.points(down, right, heights)
        _sum_facets(points, line, sample, satellites, first, step, top, left, area)
        return area

    def _facet_corners(self, cells: NDArray[np.intp]) -> Floats:
        """Give where on the map, in pixels, the facets over some cells between nodes begin and end."""
        per_cell = self._lattice.step / self._facet
        first, last = np.floor(cells.min() * per_cell), np.ceil((cells.max() + 1) * per_cell)
        return np.asarray(np.arange(first, last + 1) * self._facet)

    @cached_property
    def _spans(self) -> tuple[Floats, Floats]:
        """First and last image line, and sample, of the ground in each cell: (n - 1, m - 1, 2) each."""
        extremes = self._extremes
        known = np.asarray(np.isfinite(extremes).all(axis=-1))
        spans = []
        for a, b, c in (self._solved[..., :3].transpose(2, 0, 1), self._solved[..., 3:].transpose(2, 0, 1)):
            at = [
                a[s] + h * (b[s] + h * c[s])
                for s in (np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, :-1], np.s_[1:, 1:])
                for h in np.moveaxis(np.where(known[..., None], extremes, 0.0) / 1000, -1, 0)
            ]
            low, high = np.min(at, axis=0), np.max(at, axis=0)
            spans.append(np.stack([np.where(known, low, np.inf), np.where(known, high, -np.inf)], axis=-1))
        return spans[0], spans[1]

    def _satellites(self, lines: Floats) -> tuple[Floats, float, float]:
        """Give satellite positions (n, 3) for lines at even steps around some, the first line and the step."""
        radar, step = self._radar, 8.0
        first, last = np.nanmin(lines), np.nanmax(lines)
        at = np.arange(np.floor(first / step), np.ceil(last / step) + 2) * step
        return radar.orbit.state(self._time_s(at))[0], float(at[0]), step

    def _time_s(self, lines: Floats) -> Floats:
        """Give the times of lines, also outside the image, in seconds since the orbit's epoch."""
        radar = self._radar
        known = seconds(radar.row_times, radar.orbit.epoch)
        beyond = np.clip(lines, radar.rows[0], radar.rows[-1]) - lines
        return np.asarray(np.interp(lines, radar.rows, known) - beyond * radar.line_interval_s)

    def _reference(self, top: int, left: int) -> tuple[Floats, Floats]:
        """Give A_beta in m^2 of an image tile's pixels, and 1 / tan(incidence angle) on level ground.

        A point of the ground at the look l from the satellite is passed by the zero-Doppler plane at (v.v - l.a) / |v|,
        by its velocity and acceleration in the Earth-fixed frame (its Coriolis part is 1 per cent of the result). A
        spherical Earth of the scene's own radius is exact enough to find l.
        """
        rows, cols = (np.arange(0, n + 1, _KNOT, dtype=np.float64) for n in _TILE)
        line, sample = np.meshgrid(top + rows, left + cols, indexing="ij")
        slant, growth = self._radar.slant_range_m(line.ravel(), sample.ravel()).reshape(2, *line.shape)
        position, velocity, acceleration = self._radar.orbit.state(self._time_s(top + rows))
        orbit_m, speed = np.linalg.norm(position, axis=1)[:, None], np.linalg.norm(velocity, axis=1)[:, None]
        right = np.cross(velocity, position)
        right /= np.linalg.norm(right, axis=1)[:, None]
        down = np.cross(velocity, right) / speed
        nadir = (orbit_m**2 + slant**2 - self._earth_m**2) / (2 * orbit_m * slant)
        pull_down, pull_right = ((acceleration * axis).sum(axis=1)[:, None] for axis in (down, right))
        pull = slant * (nadir * pull_down + np.sqrt(1 - nadir**2) * pull_right)
        along = (speed**2 - pull) / speed * self._radar.line_interval_s
        cosine = (orbit_m**2 - slant**2 - self._earth_m**2) / (2 * slant * self._earth_m)
        if (np.abs(cosine) >= 1).any():
            raise SceneRejected(f"{self._radar.orbit.source}: slant ranges that do not reach the ground")
        knots = np.stack([growth * along, cosine / np.sqrt(1 - cosine**2)], axis=-1)
        pixels = interpolate(knots, _KNOT, *(np.arange(n, dtype=np.float64) for n in _TILE))
        return pixels[..., 0], pixels[..., 1]

    @cached_property
    def _earth_m(self) -> float:
        middle = self._lattice.places[self._solved.shape[0] // 2, self._solved.shape[1] // 2, :3]
        return float(np.linalg.norm(middle))


def _moved(at: slice, start: int) -> slice:
    return slice(at.start - start, at.stop - start)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _look_cosines(places, lines, satellites, first, step):  # type: ignore[no-untyped-def]
    """Give the cosine of the angle between the satellite's vertical and the line of sight to each point."""
    out = np.empty(lines.shape)
    for r in range(lines.shape[0]):
        for c in range(lines.shape[1]):
            out[r, c] = np.nan
            at = lines[r, c] / step
            if np.isfinite(at):
                share = at - np.floor(at)
                k = min(max(int(np.floor(at)) - int(first / step), 0), len(satellites) - 2)
                dot, square, height = 0.0, 0.0, 0.0
                for axis in range(3):
                    s = satellites[k, axis] + (satellites[k + 1, axis] - satellites[k, axis]) * share
                    look = s - places[r, c, axis]
                    dot += look * s
                    square += look * look
                    height += s * s
                out[r, c] = dot / np.sqrt(square * height)
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _facet_area(places, r, c, satellite):  # type: ignore[no-untyped-def]
    """Give the area of a facet on the plane at right angles to the line of sight; negative where it faces away."""
    p, q = places[r + 1, c + 1] - places[r, c], places[r + 1, c] - places[r, c + 1]
    x = 0.5 * (p[1] * q[2] - p[2] * q[1])
    y = 0.5 * (p[2] * q[0] - p[0] * q[2])
    z = 0.5 * (p[0] * q[1] - p[1] * q[0])
    centre = 0.25 * (places[r, c] + places[r + 1, c + 1] + places[r + 1, c] + places[r, c + 1])
    up = x * centre[0] + y * centre[1] + z * centre[2]
    look = satellite - centre
    distance = np.sqrt(look[0] ** 2 + look[1] ** 2 + look[2] ** 2)
    area = (x * look[0] + y * look[1] + z * look[2]) / distance
    return area if up > 0 else -area


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _parts(a, b, c, d):  # type: ignore[no-untyped-def]
    """Give into how many parts a facet is cut so that each is under half a pixel: by two of its sides."""
    return min(max(int(np.ceil(2.0 * max(abs(a), abs(b), abs(c), abs(d)))), 1), 64)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _sum_facets(places, line, sample, satellites, first, step, top, left, area):  # type: ignore[no-untyped-def]
    """Add each facet's area to the pixels that it falls in, part by part, with bilinear weights."""
    rows, cols = area.shape
    for r in range(line.shape[0] - 1):
        for c in range(line.shape[1] - 1):
            y00, y01, y10, y11 = line[r, c], line[r, c + 1], line[r + 1, c], line[r + 1, c + 1]
            x00, x01, x10, x11 = sample[r, c], sample[r, c + 1], sample[r + 1, c], sample[r + 1, c + 1]
            if not np.isfinite(y00 + y01 + y10 + y11):
                continue
            if max(y00, y01, y10, y11) < top - 1 or min(y00, y01, y10, y11) > top + rows:
                continue
            if max(x00, x01, x10, x11) < left - 1 or min(x00, x01, x10, x11) > left + cols:
                continue
            k = min(max(int((0.25 * (y00 + y01 + y10 + y11) - first) / step + 0.5), 0), len(satellites) - 1)
            seen = _facet_area(places, r, c, satellites[k])
            if seen <= 0:
                continue
            down = _parts(y10 - y00, y11 - y01, x10 - x00, x11 - x01)
            right = _parts(y01 - y00, y11 - y10, x01 - x00, x11 - x10)
            share = seen / (down * right)
            for a in range(down):
                t = (a + 0.5) / down
                for b in range(right):
                    u = (b + 0.5) / right
                    y = (y00 * (1 - u) + y01 * u) * (1 - t) + (y10 * (1 - u) + y11 * u) * t - top
                    x = (x00 * (1 - u) + x01 * u) * (1 - t) + (x10 * (1 - u) + x11 * u) * t - left
                    i, j = int(np.floor(y)), int(np.floor(x))
                    v, w = y - i, x - j
                    if 0 <= i < rows:
                        if 0 <= j < cols:
                            area[i, j] += share * (1 - v) * (1 - w)
                        if 0 <= j + 1 < cols:
                            area[i, j + 1] += share * (1 - v) * w
                    if 0 <= i + 1 < rows:
                        if 0 <= j < cols:
                            area[i + 1, j] += share * v * (1 - w)
                        if 0 <= j + 1 < cols:
                            area[i + 1, j + 1] += share * v * w
