"""ALOS-2 PALSAR-2 products of every kind: the one door, which tells from file names what is to be opened."""

from pathlib import Path

from ingest.alos2_archive import list_archive
from ingest.alos2_ceos import open_ceos
from ingest.alos2_files import choose, is_archive, is_volume, list_folder, products, products_at
from ingest.alos2_geotiff import open_geotiff
from ingest.alos2_mosaic import open_mosaic
from ingest.alos2_scansar import open_scansar
from ingest.alos2_scene import Alos2Scene
from ingest.href import place_of, split_part
from ingest.recipe import Pixels
from ingest.scene import SceneRejected

_PIXELS = Pixels()


def open_alos2(path: str, pixels: Pixels = _PIXELS) -> Alos2Scene:
    """Open a product from its folder, its VOL file, or the archive of a mosaic tile.

    Where a folder or archive holds several scenes (products, tiles, or the scans of a level 1.1 ScanSAR image) one is
    named after ``#``: ``FOLDER#F3``, ``FOLDER#ALOS2015976960-140909-FBDR1.5GUA``. Raises SceneRejected for what is
    not complete, not known, or cannot give the quantity of ``pixels``.
    """
    whole, part = split_part(path)
    if place_of(whole) != "local":
        raise SceneRejected(f"{path}: ALOS-2 products are not read from stores: copy it to a disk and name that path")
    place = Path(whole)
    if is_archive(place):
        return open_mosaic(place, choose(place, part, list_archive(place)), pixels)
    folder = _folder(place)
    product = choose(place, part, list_folder(folder))
    if product.kind == "ceos":
        return open_ceos(folder, product, pixels)
    if product.kind == "geotiff":
        return open_geotiff(folder, product, pixels)
    return open_mosaic(folder, product, pixels) if product.kind == "mosaic" else open_scansar(folder, product, pixels)


def _folder(place: Path) -> Path:
    return place if place.is_dir() else place.parent


def is_alos2(path: Path) -> bool:
    """Tell from names alone whether a folder, or a file, is an ALOS-2 product that :func:`open_alos2` may open."""
    if not path.is_dir():
        return is_archive(path) or is_volume(path)
    if any(path.glob("VOL-ALOS2*")) or any(path.glob("IMG-*-ALOS2*")):
        return True
    try:
        return any(product.polarisations for product in products(list_folder(path)))
    except SceneRejected:
        return False


def alos2_parts(path: str) -> tuple[str, ...]:
    """Give the paths under which the scenes of a folder or archive are opened: itself, or ``PATH#PART`` for each.

    A folder of one product is one scene; of level 1.1 ScanSAR each scan is one. What cannot be listed is one too: it
    is refused when it is opened.
    """
    whole, part = split_part(path)
    place = Path(whole)
    if part is not None or not is_alos2(place):
        return (path,)
    try:
        found = products_at(place, list_archive(place) if is_archive(place) else list_folder(_folder(place)))
    except SceneRejected:
        return (path,)
    if len(found) < 2:
        return (path,)
    one_product = len({product.base for product in found}) == 1
    return tuple(f"{place}#{product.scan if one_product and product.scan else product.name}" for product in found)
