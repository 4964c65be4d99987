"""Stand-ins for Slurm's srun and scontrol, so that the batch script runs where there is no Slurm."""

import sys
from pathlib import Path

# Runs SLURM_NTASKS copies with the environment of a step's tasks, passes SIGTERM on, ends with the highest code.
SRUN = """#!{python}
import os, signal, subprocess, sys
command = [word for word in sys.argv[1:]]
while command[0].startswith("--"):
    command.pop(0)
size = int(os.environ["SLURM_NTASKS"])
step = {{
    "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": str(size),
    "SLURM_STEP_TASKS_PER_NODE": str(size),
}}
tasks = [
    subprocess.Popen(command, env=os.environ | step | {{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}})
    for n in range(size)
]
signal.signal(signal.SIGTERM, lambda number, frame: [task.terminate() for task in tasks])
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = """#!/bin/sh
echo "$@" >> {folder}/requeued
"""


def slurm_programs(folder: Path) -> dict[str, str]:
    """Write both to ``folder/bin`` and give the variables that lead the batch script to them and to our commands.

    What is asked of scontrol is noted in ``folder/requeued``.
    """
    place = folder / "bin"
    place.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        program = place / name
        program.write_text(text.format(python=sys.executable, folder=folder))
        program.chmod(0o755)
    (place / "pretrain").symlink_to(Path(sys.executable).parent / "pretrain")
    return {"SARSENSE_BIN": str(place)}
