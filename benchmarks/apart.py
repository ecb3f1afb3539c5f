"""A measurement in a process of its own: what memory it takes is then its own as well."""

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from cli import UserError


def in_new_process(measure: Callable[..., dict], *args) -> dict:
    """What measure(*args) returns in a fresh process; what it raises is raised here.

    Raises UserError when the process is killed, as it is when memory runs out.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, *args).result()
        except BrokenProcessPool:
            lost = "a process that measures was killed, probably for lack of memory"
            raise UserError(f"{lost}; free memory, or lower the numbers asked for") from None


def peak_bytes(whose: int = resource.RUSAGE_SELF) -> int:
    """The most resident memory so far of this process, or of the largest child with RUSAGE_CHILDREN."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(whose).ru_maxrss * unit
