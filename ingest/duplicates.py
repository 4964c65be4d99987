"""Copies of one acquisition, processed again or packed otherwise: which one is kept.

Labels come first, then the newest processor, then the first name. Whoever has no acquisition is nobody's copy.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from infra.cluster import each
from ingest.catalog import Product, Unit
from ingest.open import open_scene
from ingest.recipe import Pixels
from ingest.scene import SceneInfo, SceneRejected

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Copy:
    """What a look at a product tells: the unit of work that it is, which acquisition and which processing."""

    unit: str
    name: str
    acquisition: tuple[str, ...]
    processing: str | None
    labelled: bool

    @property
    def rank(self) -> tuple[bool, tuple[int, ...], str]:
        """Sort key: the copy that is kept comes first."""
        newest_first = (*(-number for number in version(self.processing)), 1)  # 3.9.1 before 3.9 before none
        return not self.labelled, newest_first, self.name


@dataclass(slots=True)
class Copies:
    """The acquisitions of a catalog that have several copies, each list with the best copy first."""

    groups: list[list[Copy]] = field(default_factory=list)

    def needless(self) -> set[str]:
        """Give the units that are not done at first, because a better copy is."""
        return {copy.unit for group in self.groups for copy in group[1:]}

    def instead_of(self, failed: set[str]) -> set[str]:
        """Give the units to do where the first copies of an acquisition failed: its next copy."""
        instead = set()
        for group in self.groups:
            left = [copy.unit for copy in group if copy.unit not in failed]
            if left and group[0].unit in failed:
                instead.add(left[0])
        return instead

    def dropped(self, done: set[str]) -> Iterator[dict[str, str]]:
        """Say of each copy that was not needed which other one was kept."""
        for group in self.groups:
            kept = next((copy for copy in group if copy.unit in done), None)
            for copy in group:
                if kept is not None and copy.unit not in done and group.index(copy) > group.index(kept):
                    yield {"source": copy.name, "stage": "duplicate", "kind": "Duplicate", "reason": _why(copy, kept)}


def find_copies(units: Sequence[Unit], pixels: Pixels, slots: int) -> Copies:
    """Look into every product of a catalog, on the cluster, and group the copies of one acquisition.

    What cannot be opened is passed over: the build meets it again and says why.
    """
    products = [unit for unit in units if any(isinstance(source, Product) for source in unit.sources)]
    if len(products) < 2:
        return Copies()
    looks = [_Look(tuple(products[n : n + _AT_ONCE]), pixels) for n in range(0, len(products), _AT_ONCE)]
    found: list[Copy] = []
    for done in each(_look, looks, slots=slots):
        if done.value is not None:
            found += done.value
        else:  # one of them kills its worker: the others are looked at again, each alone
            alone = [_Look((unit,), pixels) for unit in done.item.units]
            found += [copy for single in each(_look, alone, slots=slots) for copy in single.value or ()]
    return group_copies(found)


def copy_of(unit: Unit, source: Product, info: SceneInfo) -> Copy | None:
    """Give what is known of an open product as a copy of its acquisition, None where that is not known."""
    if info.acquisition is None:
        return None
    # What was made of one acquisition for another use, an SLC beside its GRD, is no copy of it.
    same = (info.acquisition, info.product, info.quantity, *info.polarisations)
    return Copy(unit.name, source.name, same, info.processing, source.labels is not None)


def group_copies(copies: Iterable[Copy]) -> Copies:
    """Find the acquisitions that have several copies; the order of the copies does not matter."""
    groups: dict[tuple[str, ...], list[Copy]] = {}
    for copy in copies:
        groups.setdefault(copy.acquisition, []).append(copy)
    several = [sorted(group, key=lambda copy: copy.rank) for group in groups.values() if len(group) > 1]
    return Copies(sorted(several, key=lambda group: group[0].name))


def version(processing: str | None) -> tuple[int, ...]:
    """Give the numbers of a processor's version, ("Sentinel-1 IPF 003.40" gives 3, 40), none where there are none."""
    numbers = re.findall(r"\d+(?:\.\d+)+", processing or "")
    return tuple(int(number) for number in numbers[-1].split(".")) if numbers else ()


@dataclass(frozen=True, slots=True)
class _Look:
    units: tuple[Unit, ...]
    pixels: Pixels


def _look(look: _Look) -> list[Copy]:
    return [copy for unit in look.units for copy in _copies(unit, look.pixels)]


def _copies(unit: Unit, pixels: Pixels) -> Iterator[Copy]:
    for source in unit.sources:
        if not isinstance(source, Product):
            continue
        try:
            with open_scene(source.path, pixels) as scene:
                info = scene.info
        except SceneRejected:
            continue
        if copy := copy_of(unit, source, info):
            yield copy


def _why(copy: Copy, kept: Copy) -> str:
    made = f"by {copy.processing or 'an unknown processor'}, that one by {kept.processing or 'an unknown one'}"
    return f"shows the same acquisition as {kept.name}, which is kept: this one was made {made}"
