"""A run on a Ray cluster whose ranks leave their process ids in a folder and raise when a file there says so.

python soak_trainer.py FOLDER DATA OUT DIALS.json
"""

import ctypes
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMEOUT_S = 15.0
RANKS = 2


def bad_luck(rank: str, folder: Path, thread: int) -> None:
    """Raise in the thread that trains, wherever it is, as a failing library would."""
    asked = folder / f"raise-{rank}"
    while not asked.exists():
        time.sleep(0.02)
    asked.unlink()
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(RuntimeError))


def work(told: Mapping[str, Any], stop: threading.Event) -> bool:
    from pretrain.launch import work_of_rank

    rank, folder = os.environ["RANK"], Path(told["folder"])
    (folder / f"rank-{rank}-{os.getpid()}").write_text(str(time.time()))
    threading.Thread(target=bad_luck, args=(rank, folder, threading.get_ident()), daemon=True).start()
    return work_of_rank(told["job"], stop)


def main(folder: str, data: str, out: str, dials: str) -> None:
    from infra.gang import gang
    from pretrain.di3cl_run import DI3CLRun
    from pretrain.launch import Job, preflight

    config = DI3CLRun.model_validate(json.loads(Path(dials).read_text()))
    job = Job("di3cl", config, data, out, "cpu", 1)
    preflight(job, RANKS)
    with tempfile.TemporaryDirectory() as storage:
        finished = gang(
            work, {"folder": folder, "job": job.plain()}, ranks=RANKS, gpu=False, max_failures=100,
            address=os.environ["RAY_ADDRESS"], timeout_s=TIMEOUT_S, name="soak", storage=storage,
        )  # fmt: skip
    sys.exit(0 if finished else 3)


if __name__ == "__main__":
    main(*sys.argv[1:])
