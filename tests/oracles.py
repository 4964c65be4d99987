"""Programs of others that our numbers are held against."""

import os
import shutil

import pytest


def orfeo(program: str) -> str:
    """Find a program of Orfeo ToolBox; without it the test is left out, but not in CI."""
    path = shutil.which(program)
    if path is None:
        reason = f"no {program} to compare with: apt-get install otb-bin"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return path
