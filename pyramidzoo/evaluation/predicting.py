"""Compute the predictions of a job's units of work."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from pyramidzoo.data.transforms import Normalize
from pyramidzoo.evaluation.engine import report_out_of_memory
from pyramidzoo.evaluation.planning import Job, Unit
from pyramidzoo.evaluation.predictions import Part, is_valid, write_predictions


def predict(job: Job, units: Sequence[Unit]) -> list[Part]:
    """Compute the predictions of some units of a job.

    Args:
        job: The job.
        units: Some of its units.

    Returns:
        The predictions, if the job has no folder. If it has one, the predictions are written to
        files there, and the list is empty. A unit is not computed again if its file is there already
        and is valid.

    Raises:
        UnavailableError: The device has too little memory, or a file cannot be written.
        IntegrityError: An image is damaged.
    """
    parts: list[Part] = []
    if job.folder is None:
        _predict_units(job, units, lambda unit, part: parts.append(part))
        return parts
    missing = [unit for unit in units if not is_valid(job.prediction_file(unit), unit)]
    reused = len(units) - len(missing)
    job.reused_files += reused
    if reused:
        print(
            f"{job.target.name}: {reused} of {len(units)} prediction files are there already",
            file=sys.stderr,
        )
    _predict_units(job, missing, lambda unit, part: write_predictions(job.prediction_file(unit), part, unit))
    return parts


def _predict_units(job: Job, units: Sequence[Unit], save: Callable[[Unit, Part], None]) -> None:
    """Compute the predictions of units, and call `save` for each unit as soon as its predictions are complete."""
    assert job.prepared is not None
    prepared, job.prepared = job.prepared, None
    if not units:
        return
    device = job.settings.device
    ranges = [batch for unit in units for batch in _list_batch_ranges(unit, job.batch_size)]
    batches = job.images.read_batches(ranges, job.preprocessing, device, job.settings.reading)
    images = sum(unit["stop"] - unit["start"] for unit in units)
    start_time = time.perf_counter()
    with (
        report_out_of_memory(device),
        contextlib.closing(batches),
        job.engine.open_program(prepared, job.batch_size) as compute,
        tqdm(total=images, desc=job.target.name, unit="img", disable=None) as progress,
    ):
        normalize = Normalize(job.preprocessing).to(device)
        transfers: deque[tuple[Unit, LogitsTransfer]] = deque()
        # While the logits of one unit are copied from the GPU to the CPU, the GPU computes the next unit. So on a GPU
        # one copy may be unfinished at any time. On a CPU there is no copy to wait for.
        unfinished_transfers = 0 if device.type == "cpu" else 1
        for unit in units:
            logits = []
            for start, stop in _list_batch_ranges(unit, job.batch_size):
                logits.append(compute(normalize(next(batches))))
                progress.update(stop - start)
            transfers.append((unit, LogitsTransfer(torch.cat(logits))))
            if len(transfers) > unfinished_transfers:
                _save_oldest(job, transfers, save)
        while transfers:
            _save_oldest(job, transfers, save)
    job.seconds += time.perf_counter() - start_time


def _list_batch_ranges(unit: Unit, batch_size: int) -> list[tuple[int, int]]:
    """Divide a unit's range of samples into batches, and return the range of each: (start, stop), without stop."""
    start, stop = unit["start"], unit["stop"]
    return [(batch_start, min(batch_start + batch_size, stop)) for batch_start in range(start, stop, batch_size)]


class LogitsTransfer:
    """A copy of logits from the device to the CPU, which has started and may still be running.

    Logits of a GPU are copied to pinned memory: only then does the CPU not wait for the copy.
    """

    def __init__(self, logits: Tensor) -> None:
        """Start to copy logits (n, classes). Logits that are on the CPU already are not copied."""
        self._on_gpu = logits.device.type != "cpu"
        self._logits = logits
        if self._on_gpu:
            self._logits = torch.empty_like(logits, device="cpu", pin_memory=True)
            self._logits.copy_(logits, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def wait(self) -> Tensor:
        """Wait until the copy is complete, and return the logits in ordinary memory, which is not pinned."""
        if not self._on_gpu:
            return self._logits
        self._copied.synchronize()
        return self._logits.clone()


def _save_oldest(job: Job, transfers: deque[tuple[Unit, LogitsTransfer]], save: Callable[[Unit, Part], None]) -> None:
    """Wait for the oldest transfer, and save the predictions of its unit."""
    unit, transfer = transfers.popleft()
    start, stop = unit["start"], unit["stop"]
    part = Part(
        name=f"samples {start} to {stop - 1}",
        index=job.images.get_indices(start, stop),
        labels=job.images.labels[start:stop].numpy(),
        logits=transfer.wait().numpy(),
    )
    save(unit, part)
