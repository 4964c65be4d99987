"""Memory that a process frees stays with it, unless the user has chosen otherwise."""

import json
import os
import platform
import subprocess
import sys

import pytest

MEASURE = """
import json, resource, sys
from pathlib import Path
import numpy as np
from infra.allocator import keep_freed_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
before = resident_mib()
blocks = [np.ones(2**19, np.float64) for _ in range(64)]  # 4 MiB each
full = resident_mib()
del blocks
print(json.dumps({"kept": kept, "full": full - before, "after": resident_mib() - before}))
"""


def measured(how: str, **chosen: str) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", MEASURE, how]
    done = subprocess.run(command, env=environment | chosen, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_stays() -> None:
    asked, left, chosen = measured("keep"), measured("leave"), measured("keep", MALLOC_ARENA_MAX="4")
    assert asked["kept"] is True
    assert chosen["kept"] is False
    for found in (asked, left, chosen):
        assert found["full"] == pytest.approx(256, abs=16)
    assert asked["after"] > 240
    assert left["after"] < 16
    assert chosen["after"] < 16
