"""Tensors out of files of others: safetensors, or torch files that hold nothing but tensors."""

import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from infra.errors import UsageError

_NESTS = ("state_dict", "model", "model_state_dict", "teacher", "student", "encoder", "backbone")
_FAULTS = (
    SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, RuntimeError, AttributeError, ValueError,
    KeyError, IndexError, TypeError,
)  # fmt: skip


def read_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """Give the tensors of a file by name; of a checkpoint, those of its state dict.

    Raises UsageError where there is anything but plain data in it: nothing of it is ever executed.
    """
    try:
        if _is_safetensors(data):
            return load(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old or odd pickles: what is not plain tensors is refused anyway
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _FAULTS as error:
        said = (str(error).splitlines() or [""])[0][:160]
        raise UsageError(
            f"{name} is not an encoder: it holds no plain tensors ({type(error).__name__}: {said}); expected"
            " .safetensors, or a .pth that holds nothing but a state dict: pickled objects are never opened"
        ) from error
    return _tensors(found, name)


def _is_safetensors(data: bytes) -> bool:
    """Tell it from torch's formats, a zip or a pickle: after eight bytes of length comes a JSON object."""
    return data[8:9] == b"{"


def _tensors(found: Any, name: str) -> dict[str, Tensor]:
    while isinstance(found, Mapping):
        inner = next((found[nest] for nest in _NESTS if isinstance(found.get(nest), Mapping)), None)
        if inner is None:
            return {str(entry): value for entry, value in found.items() if isinstance(value, Tensor)}
        found = inner
    raise UsageError(f"{name} is not an encoder: it holds a {type(found).__name__}, expected names and tensors")
