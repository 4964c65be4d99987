"""Where a catalog says a product lies: on this machine, in S3, or somewhere it has to be fetched from first."""

import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from infra.errors import UsageError

Place = Literal["local", "s3", "remote"]

# A run of letters is looked at once, from where it begins: a server may send megabytes of them.
_URL = re.compile(r"(?<![\w+.-])[\w+.-]*://[^\s\"'<>]+")
_MEMBER = re.compile(r"/(manifest\.safe|(annotation|measurement|preview|support)/.*)$")


def place_of(href: str) -> Place:
    """Tell where a path, a URI or a URL leads."""
    scheme, found, _ = href.partition("://")
    if not found or scheme.lower() == "file":
        return "local"
    return "s3" if scheme.lower() == "s3" else "remote"


def product_of(href: str) -> str:
    """Give the product that a file belongs to: what holds its manifest, annotation and measurements."""
    return _MEMBER.sub("", href.rstrip("/"))


def is_member(href: str) -> bool:
    """Tell whether a href leads to a file inside a Sentinel-1 product."""
    return _MEMBER.search(href) is not None


def without_secrets(text: str) -> str:
    """Take user names, passwords and queries out of every URL in a text: signatures and tokens stand there."""
    return _URL.sub(lambda match: _bare(match[0]), text)


def local_path(href: str, base: Path) -> Path:
    """Give the absolute path of a local href; a relative one starts at ``base``."""
    if href[:7].lower() == "file://":
        host, slash, rest = unquote(href[7:]).partition("/")
        if host not in ("", "localhost") and slash:
            raise UsageError(f"{href}: a file on the host {host!r}; expected file:///path on this machine")
        href = f"{slash}{rest}" if host in ("", "localhost") else host
    return (base / href).resolve()  # an absolute path stays what it is


def split_part(href: str) -> tuple[str, str | None]:
    """Split off the part of a product that a name may end in: ``X.SAFE#IW2`` is the sub-swath IW2 of X.

    A ``#`` that belongs to the name of something that is there splits nothing.
    """
    path, found, part = href.rpartition("#")
    if not found or not part or "/" in part or (place_of(href) == "local" and Path(href).exists()):
        return href, None
    return path, part


def _bare(url: str) -> str:
    scheme, _, rest = url.partition("://")
    path, found, part = re.sub(r"\?[^#]*", "", rest).partition("#")
    place, slash, below = path.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{below}{found}{part}"
