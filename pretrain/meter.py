"""How fast a run is: images, steps, waiting for data, and the share of the device's peak."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0}
"""Dense bf16 peaks by a part of the device's name, from the makers' data sheets (SXM where there are several)."""


def peak_tflops(device: torch.device) -> float | None:
    """Give the dense bf16 peak of a known GPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


class Meter:
    """Rates since they were last read. ``flops`` are those of this rank's forward and backward pass of one step.

    They are counted from the network's matrix products and convolutions, a multiplication and an addition as two; what
    is computed twice to save memory counts twice.
    """

    def __init__(self, batch: int, peak_tflops: float | None = None) -> None:
        self._batch, self._peak_tflops = batch, peak_tflops
        self.flops = 0
        self._begin()

    def _begin(self) -> None:
        self._since, self._steps, self._wait_s = time.perf_counter(), 0, 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the operations of what is done within."""
        with FlopCounterMode(display=False) as counter:
            yield
        self.flops = counter.get_total_flops()

    def add(self, wait_s: float) -> None:
        """Note a step and the time that it waited for data."""
        self._steps += 1
        self._wait_s += wait_s

    def read(self) -> dict[str, float]:
        """Give the rates, and begin anew."""
        wall_s = max(time.perf_counter() - self._since, 1e-9)
        rates = {
            "images_per_s": self._steps * self._batch / wall_s,
            "step_s": wall_s / max(1, self._steps),
            "data_wait_share": min(self._wait_s / wall_s, 1.0),
        }
        if self.flops:
            rates["tflops"] = self.flops * self._steps / wall_s / 1e12
            if self._peak_tflops:
                rates["mfu"] = rates["tflops"] / self._peak_tflops
        self._begin()
        return rates
