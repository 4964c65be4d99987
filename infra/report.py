"""One HTML file that carries everything it shows: no scripts, no links out, pictures inside."""

import base64
import html
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; overflow-wrap: anywhere }
h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
td { overflow-wrap: anywhere } td:first-child { overflow-wrap: break-word } td.number { white-space: nowrap }
td.number { text-align: right; width: 1% } .note { opacity: .75 } .wide { overflow-x: auto }
figure { margin: .5rem; display: inline-block; vertical-align: top }
figcaption { font-size: .85rem; max-width: 22rem; overflow-wrap: anywhere }
img { max-width: 100%; height: auto; background: var(--soft) }
code { font-size: .85em; overflow-wrap: anywhere }
"""


def page(title: str, subtitle: str, parts: Iterable[str]) -> bytes:
    """Put a whole page together; ``parts`` are pieces of HTML made by the functions below."""
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    body = f'<h1>{html.escape(title)}</h1><p class="note">{html.escape(subtitle)}</p>{"".join(parts)}'
    return f'<!doctype html><html lang="en"><head>{meta}{head}</head><body>{body}</body></html>\n'.encode()


def section(title: str, *parts: str) -> str:
    """Give a titled section."""
    return f"<h2>{html.escape(title)}</h2>{''.join(parts)}"


def note(text: str) -> str:
    """Give a paragraph of plain text."""
    return f'<p class="note">{html.escape(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Give a table; numbers are set to the right in columns that hold nothing else."""
    found = [tuple(row) for row in rows]
    texts = [any(isinstance(value, str) and value for value in column) for column in zip(*found, strict=True)]
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row, texts))}</tr>" for row in found)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(png: bytes, caption: str, alt: str = "") -> str:
    """Give a picture with its caption inside the page."""
    data = base64.b64encode(png).decode()
    text = html.escape(caption)
    image = f'<img alt="{html.escape(alt or caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def png_of(plot: Any) -> bytes:
    """Render a matplotlib figure as PNG bytes, the same bytes for the same figure."""
    buffer = BytesIO()
    plot.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def _cell(value: Any, among_texts: bool) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{html.escape(str(value))}</td>"
    shown = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return f"<td>{shown}</td>" if among_texts else f'<td class="number">{shown}</td>'
