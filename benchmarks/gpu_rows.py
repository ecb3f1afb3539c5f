"""What benchmarks/gpu.py measures with, and where it writes: peaks, waits and kernels; rows of gpu.json."""

import argparse
import gc
import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.common import clock
from cli import layout, read_object, write_whole

# ---- results ----


class Results:
    """gpu.json: the environment and, per part, its rows; written whole after every change.

    seconds: of the part.
    """

    def __init__(
        self, folder: Path, part: str, seconds: float, wanted: Sequence[str] = ("",), keep: bool = False
    ):
        """Rows that the part has are dropped, unless `keep` says otherwise; wanted: see gpu.py's --rows."""
        self.seconds, self.wanted = seconds, wanted
        self.path, self.part, self.started = folder / "gpu.json", part, time.monotonic()
        self.all = read_object(self.path, "results") if self.path.exists() else {}
        self.all[part] = self.all.get(part, []) if keep else []

    def left(self) -> float:
        """Seconds of the part's time."""
        return self.seconds - (time.monotonic() - self.started)

    def add(self, what: str, **values) -> None:
        self.all[self.part].append({"what": what} | values)
        text = json.dumps(self.all, indent=1) + "\n"
        write_whole(self.path, lambda path: path.write_text(text, encoding="utf-8"))

    @contextmanager
    def row(self, what: str, needs: float = 0) -> Iterator[dict]:
        """What the block puts into the dict becomes a row; so does what it raises.

        Where less than `needs` seconds are left the block has to leave: `values["skip"]` says so. So it does
        where the row is not wanted; then there is none.
        """
        values = {}
        if not any(text in what for text in self.wanted):
            yield {"skip": "not wanted"}
            return
        if self.left() < needs:
            values["skip"] = f"{self.left():.0f} s were left, it needs {needs}"
        try:
            yield values
        except Exception as error:  # of any kind: the next row may work
            values["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            values["traceback"] = traceback.format_exc()
        self.add(what, **values)
        gc.collect()  # of models, which hold themselves by their hooks
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def tables(results: dict) -> str:
    """One table for each list of rows that share their columns; a failure in one line."""
    text = ""
    for part, rows in results.items():
        text += f"\n== {part}\n"
        columns = None
        table = []
        for row in rows:
            row = {name: value for name, value in row.items() if name != "traceback"}
            if list(row) != columns:
                text += layout(table) if table else ""
                columns, table = list(row), [list(row)]
            table.append([shown(value).replace("\n", "\n  ") for value in row.values()])
        text += layout(table) if table else ""
    return text


# ---- what is measured ----


def repeated(work: Callable, device: torch.device, times: int) -> float:
    """Seconds a call, best of five series; a first call is not counted."""
    work()
    best = float("inf")
    for _ in range(5):
        started = clock(device)
        for _ in range(times):
            work()
        best = min(best, (clock(device) - started) / times)
    return best


def matmul_peak(args: argparse.Namespace) -> float:
    """Operations a second of a product of two square matrices in the base's dtype."""
    size = 128 if args.smoke else 8192
    a, b = torch.randn(2, size, size, device=args.device).to(args.dtype)
    return 2 * size**3 / repeated(lambda: a @ b, args.device, 10)


def bandwidth(args: argparse.Namespace) -> float:
    """Bytes a second, read and written, of a copy of 1 GiB."""
    source = torch.ones(2**12 if args.smoke else 2**28, device=args.device)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / repeated(lambda: target.copy_(source), args.device, 10)


def waits(step: Callable) -> int:
    """How often the host waits for the GPU in a step, by torch's own count."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def kernels(step: Callable, device: torch.device) -> list[tuple[str, float, int]]:
    """Name, milliseconds and count of what a step runs on the device, the longest first."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        step()
        clock(device)
    found = []
    for event in profiler.key_averages():
        if cuda and event.device_type == DeviceType.CUDA:
            found.append((event.key, event.self_device_time_total / 1e3, event.count))
        elif not cuda:
            found.append((event.key, event.self_cpu_time_total / 1e3, event.count))
    return sorted(found, key=lambda each: -each[1])
