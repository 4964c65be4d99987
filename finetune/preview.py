"""A map as one HTML page: the radar image beside the classes, how much ground each covers, and where it comes from."""

import html
from collections.abc import Mapping

from finetune.legend import LandClass, Legend
from finetune.map import MapReport, ValueReport
from infra.report import figure, note, page, section, table


def map_page(
    title: str,
    subtitle: str,
    picture: bytes,
    legend: Legend,
    report: MapReport,
    lineage: Mapping[str, str],
    vectors: Mapping[str, int] | None = None,
) -> bytes:
    """Make a self-contained page; ``picture`` is PNG, ``vectors`` counts the shapes that were made of each class."""
    parts = [figure(picture, "backscatter, and the classes over it", f"map of {title}")]
    parts.append(section("Classes", class_table(legend, report), _no_data(report)))
    if vectors:
        parts.append(section("Shapes", table(("file", "shapes"), list(vectors.items()))))
    parts.append(section("Where it comes from", table(("what", "which"), list(lineage.items()))))
    return page(title, subtitle, parts)


def value_page(title: str, subtitle: str, picture: bytes, report: ValueReport, lineage: Mapping[str, str]) -> bytes:
    """Make a self-contained page of a map of numbers; ``picture`` is PNG."""
    named = {"mean": report.mean, "standard deviation": report.deviation, "least": report.least}
    named["greatest"] = report.most
    rows = [(what, "-" if value is None else value, report.unit) for what, value in named.items()]
    parts = [figure(picture, "backscatter, and the values beside it", f"map of {title}")]
    empty = note(_empty(report.no_data, report.pixels))
    parts.append(section("Values", table(("what", "value", "unit"), rows), empty))
    parts.append(section("Where it comes from", table(("what", "which"), list(lineage.items()))))
    return page(title, subtitle, parts)


def class_table(legend: Legend, report: MapReport) -> str:
    """Give a table of classes in their colours with share, area in km2 and mean confidence in per cent."""
    whole = max(sum(report.pixels.values()), 1)
    head = "".join(f"<th>{name}</th>" for name in ("class", "share, %", "area, km²", "mean confidence, %", "pixels"))
    body = "".join(f"<tr>{_class_row(c, report, whole)}</tr>" for c in legend.classes)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _class_row(c: LandClass, report: MapReport, whole: int) -> str:
    colour = "#" + "".join(f"{level:02x}" for level in c.colour)
    box = f'<span style="display:inline-block;width:1em;height:1em;background:{colour};border:1px solid #8888"></span>'
    sure, area = report.confidences.get(c.id), report.areas_km2.get(c.id)
    cells = (
        f"{100 * report.pixels[c.id] / whole:.2f}",
        "-" if area is None else f"{area:,.3f}",
        "-" if sure is None else f"{100 * sure:.1f}",
        f"{report.pixels[c.id]:,}",
    )
    return f"<td>{box} {html.escape(c.name)}</td>" + "".join(f'<td class="number">{cell}</td>' for cell in cells)


def _no_data(report: MapReport) -> str:
    sure = "" if report.confidence is None else f" Mean confidence {100 * report.confidence:.1f} %."
    return note(_empty(report.no_data, sum(report.pixels.values())) + sure)


def _empty(no_data: int, others: int) -> str:
    return f"{no_data:,} pixels ({100 * no_data / max(no_data + others, 1):.1f} %) hold no measurement."
