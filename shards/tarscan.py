"""What a tar file of samples holds, read from its headers; nothing is ever extracted."""

import io
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infra.errors import SarsenseError
from shards.writer import BLOCK

_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}", re.ASCII)
_MOST_HEADER = 4096  # a .npy header of a plain array has 128 bytes


class BadTar(SarsenseError):
    """A tar file cannot be taken as it is; the message says what is wrong, without the file's name."""


@dataclass(slots=True)
class Sample:
    """The members of one sample, by what follows the key in their names: (header's name, offset, length)."""

    key: str
    members: dict[str, tuple[str, int, int]] = field(default_factory=dict)


def scan(data: bytes) -> list[Sample]:
    """Give the samples of a tar file in their order. Raises BadTar where it is cut short, odd, or repeats a key."""
    samples: dict[str, Sample] = {}
    last, end = "", 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                end = member.offset_data + member.size
                if member.isdir():
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise BadTar(f"member {member.name!r} is a link or a device: expected plain files only")
                if end > len(data):
                    raise BadTar(_cut(f"member {member.name!r} ends at {end}, the file at {len(data)}"))
                key, suffix = split_name(member.name)
                sample = samples.setdefault(key, Sample(key))
                if suffix in sample.members or (last != key and sample.members):
                    raise BadTar(f"key {key!r} comes twice, or its members do not lie together: keys name one sample")
                sample.members[suffix] = (member.name, member.offset_data, member.size)
                last = key
    except tarfile.TarError as error:
        raise BadTar(_cut(f"after {end} bytes: {error}")) from error
    end += -end % BLOCK
    if data[end : end + 2 * BLOCK] != bytes(2 * BLOCK):
        raise BadTar(_cut(f"after {end} bytes there is no end mark of two empty blocks"))
    if not samples:
        raise BadTar("holds no sample")
    return list(samples.values())


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into key and suffix, at the first dot of the file's name; raises BadTar.

    A folder within the tar file becomes part of the key: ``./a/b.npy`` has the key ``a_b``.
    """
    folder, _, file = name.removeprefix("./").rpartition("/")
    stem, dot, suffix = file.partition(".")
    key = f"{folder}/{stem}".strip("/").replace("/", "_")
    if not stem or not dot or not _KEY.fullmatch(key):
        raise BadTar(
            f"member {name!r}: expected <key>.<suffix>, the key of up to 90 letters, digits, '-' and '_'; rename it"
        )
    return key, suffix


def npy_kind(payload: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Give shape and dtype of a .npy payload in C order. Raises BadTar; nothing in it is ever unpickled."""
    file = io.BytesIO(payload)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=_MOST_HEADER)
    except ValueError as error:
        raise BadTar(f"is no .npy file: {error}") from error
    if fortran and len(shape) > 1:
        raise BadTar("is stored in Fortran order: save numpy.ascontiguousarray(it)")
    return shape, dtype


def json_object(payload: bytes) -> Mapping[str, Any]:
    """Give the object in a JSON payload. Raises BadTar."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BadTar(f"is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadTar(f"holds {type(found).__name__}, expected an object")
    return found


def _cut(what: str) -> str:
    return f"is cut short or damaged: {what}; fetch it again"
