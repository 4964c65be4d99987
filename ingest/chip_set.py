"""Sets of ready-cut images: which files of a folder form chips, by the layout that their publisher chose."""

import glob
import re
from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator

from infra.errors import UsageError
from ingest.chips import ChipPixels, ChipSource
from ingest.legend import faults, read_legend, several

_FIELD = re.compile(r"\{(\w+)\}|(\*)")
_Strings = Annotated[tuple[str, ...], BeforeValidator(several), Field(min_length=1)]


class ChipFolder(ChipPixels):
    """Which files of a folder are chips.

    ``image`` is a pattern (or a pattern for each band) with fields in braces; each field stands for the same text
    wherever it occurs, and the fields' values tell chips apart. ``*`` is short for ``{stem}``. ``label`` names the
    label file with the same fields. A chip's id is ``id`` with the fields filled in (default: their values joined by
    dashes), after ``name`` and a dash where a name is given. A field ``time`` is read by ``time_format`` (strptime).
    """

    name: str | None = Field(None, min_length=1)
    id: str | None = Field(None, min_length=1)
    image: _Strings
    label: str | None = None
    time_format: str = "%Y%m%dT%H%M%S"

    @model_validator(mode="after")
    def _patterns(self) -> Self:
        known = fields_of(self.image[0])
        for pattern in self.image:
            if not fields_of(pattern) or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
                raise ValueError(f"image pattern {pattern!r}: expected a path within the folder with a * or {{field}}")
            if pattern.count("*") > 1:
                raise ValueError(f"image pattern {pattern!r} has several *: name them, as in {{scene}}_{{tile}}.tif")
            if fields_of(pattern) != known:
                raise ValueError(f"image pattern {pattern!r} has other fields than {self.image[0]!r}")
        for what, text in (("label", self.label), ("id", self.id)):
            if text is not None and (not fields_of(text) or fields_of(text) - known):
                raise ValueError(f"{what} pattern {text!r}: expected fields among {', '.join(sorted(known))} in it")
        if len(self.image) not in (1, len(self.polarisations)):
            raise ValueError(f"{len(self.image)} image patterns for {len(self.polarisations)} polarisations")
        return self


def fields_of(pattern: str) -> frozenset[str]:
    """Give the names of a pattern's fields."""
    return frozenset(match[1] or "stem" for match in _FIELD.finditer(pattern))


def layouts() -> dict[str, str]:
    """Give the layouts of public data sets that come with the package, by name, as YAML text."""
    files = sorted(resources.files("ingest.layouts").iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file.read_text() for file in files if file.name.endswith(".yaml")}


def read_chip_folder(path: Path) -> tuple[ChipFolder, Path]:
    """Read a YAML description of a chip set and give it with the folder it describes.

    ``layout`` takes a public data set's description from the package, which other fields then override. The folder
    is that of the file, or what ``folder`` in it names from there; ``legend`` may name a legend file.
    Raises UsageError with every wrong field.
    """
    try:
        data = yaml.safe_load(path.read_bytes())
        if not isinstance(data, dict):
            raise ValueError(f"found {type(data).__name__}, expected fields")
        data = _with_layout(data)
        folder = path.parent / str(data.pop("folder", "."))
        if isinstance(data.get("legend"), str):
            data["legend"] = read_legend(path.parent / data["legend"])
        spec = ChipFolder.model_validate(data)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"chip set {path}: {faults(error)}") from error
    if not folder.is_dir():
        raise UsageError(f"chip set {path}: its folder {folder} is not there")
    return spec, folder


def _with_layout(data: dict[str, Any]) -> dict[str, Any]:
    name = data.pop("layout", None)
    if name is None:
        return data
    known = layouts()
    if name not in known:
        raise ValueError(f"no layout {name!r}: expected one of {', '.join(known)}")
    return {**yaml.safe_load(known[name]), **data}


def chip_folder(folder: Path, spec: ChipFolder) -> list[ChipSource]:
    """List the chips of a folder in the order of their ids; one that lacks a file is listed and rejected on opening.

    Raises UsageError where two chips would have one id, or a field ``time`` is no time.
    """
    common = {name: getattr(spec, name) for name in ChipPixels.model_fields}
    order = _order(spec.image[0])
    found = {values for pattern in spec.image for values in _matches(folder, pattern, order)}
    chips: dict[str, ChipSource] = {}
    for values in sorted(found):
        fields = dict(zip(order, values, strict=True))
        stem = _fill(spec.id, fields) if spec.id else "-".join(values)
        chip_id = f"{spec.name}-{stem}" if spec.name else stem
        if chip_id in chips:
            raise UsageError(f"{folder}: two chips would be called {chip_id}; give an id pattern with more fields")
        chips[chip_id] = ChipSource(
            id=chip_id,
            images=tuple(str(folder / _fill(pattern, fields)) for pattern in spec.image),
            label=str(folder / _fill(spec.label, fields)) if spec.label else None,
            **(common | _time(fields, spec, folder)),
        )
    return [chips[chip_id] for chip_id in sorted(chips)]


def _time(fields: Mapping[str, str], spec: ChipFolder, folder: Path) -> dict[str, Any]:
    if "time" not in fields or spec.time is not None:
        return {}
    try:
        return {"time": datetime.strptime(fields["time"], spec.time_format).isoformat()}
    except ValueError as error:
        raise UsageError(f"{folder}: {fields['time']!r} in a file name is not a time: {error}") from error


def _order(pattern: str) -> list[str]:
    """Give a pattern's fields in the order of their first occurrence."""
    return list(dict.fromkeys(match[1] or "stem" for match in _FIELD.finditer(pattern)))


def _fill(pattern: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda match: fields[match[1] or "stem"], pattern)


def _matches(folder: Path, pattern: str, order: list[str]) -> set[tuple[str, ...]]:
    """Give the values of the fields, in an order, in each file that matches."""
    shape, rest = "", pattern
    seen: set[str] = set()
    while match := _FIELD.search(rest):
        name = match[1] or "stem"
        shape += re.escape(rest[: match.start()]) + (f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)")
        seen.add(name)
        rest = rest[match.end() :]
    whole = re.compile(shape + re.escape(rest))
    texts = _FIELD.split(pattern)[::3]  # what stands between the fields
    stars = "*".join(glob.escape(text) for text in texts)
    names = glob.glob(stars, root_dir=folder)
    return {tuple(match[name] for name in order) for name in names if (match := whole.fullmatch(name))}
