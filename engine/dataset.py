"""Training data: a JSON Lines file as flat arrays of tokens, rendered by several processes and kept on disk.

    trajectories = dataset.load("train.jsonl", "tiny", cache="cache")
    trajectories[0].example  # input_ids, labels and role_ids of the first record, as data.render gives them

A token takes 6 bytes. The second time, `load` maps the file that the first has left in the cache into memory:
nothing is read before it is used, and nothing is parsed or tokenised again.

Letters in shapes: N trajectories, T tokens of all of them.
"""

import hashlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from threading import Thread

import numpy as np
import tokenizers
import torch
from tqdm import tqdm

import data
from cli import UserError, open_file, remove_left_overs, write_whole
from data import Example
from engine.tensors import CHECKSUM, load_file, save_file
from formats.frames import Frame, load_frame
from mor import ROLES

CHUNK = 64  # lines that a worker renders at a time
AHEAD = 4  # chunks per worker that are under way or wait to be read
LINES_PER_WORKER = 2000  # fewer are rendered in less time than a worker takes to start


@dataclass
class Trajectory:
    example: Example  # arrays in place of lists
    length: int  # tokens
    supervised: int  # tokens with a label


@dataclass
class HeldOut(Trajectory):
    record: dict  # whose turns the model writes itself, for comparison


KINDS = {
    "input_ids": np.int32,
    "trained": np.bool_,
    "role_ids": np.int8,
    "lengths": np.int32,
    "supervised": np.int32,
    "digests": np.int64,
}


@dataclass
class Trajectories:
    """A sequence of Trajectory, each cut from the flat arrays when it is asked for."""

    input_ids: np.ndarray  # int32 [T]
    trained: np.ndarray  # bool [T]: the label is the id, else -100
    role_ids: np.ndarray  # int8 [T]
    lengths: np.ndarray  # int32 [N]
    supervised: np.ndarray  # int32 [N]
    digests: np.ndarray  # int64 [N]: of each one's ids, labels and roles
    starts: np.ndarray  # int64 [N]: where each one begins among the T tokens

    @classmethod
    def of(cls, flat: dict[str, bytearray]) -> "Trajectories":
        """From the bytes of each array of KINDS, which are not copied."""
        arrays = {name: np.frombuffer(flat[name], kind) for name, kind in KINDS.items()}
        return cls(**arrays, starts=np.cumsum(arrays["lengths"], dtype=np.int64) - arrays["lengths"])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Trajectory:
        here = slice(self.starts[i], self.starts[i] + self.lengths[i])
        ids = self.input_ids[here]
        example = Example(ids, np.where(self.trained[here], ids, -100), self.role_ids[here])
        return Trajectory(example, len(ids), int(self.supervised[i]))

    def keep(self, chosen: np.ndarray) -> "Trajectories":
        """Those at the chosen indices; the tokens stay where they are."""
        each = (self.lengths, self.supervised, self.digests, self.starts)
        return Trajectories(self.input_ids, self.trained, self.role_ids, *(array[chosen] for array in each))

    def only(self, role: str) -> "Trajectories":
        """Those in which this role says something, and that is all that is trained."""
        trained = self.trained & (self.role_ids == ROLES.index(role))
        ends = self.starts + self.lengths
        spans = zip(self.starts, ends, strict=True)
        supervised = [np.count_nonzero(trained[start:end]) for start, end in spans]  # never the first token
        of_role = replace(self, trained=trained, supervised=np.array(supervised, np.int32))
        return of_role.keep(np.flatnonzero(of_role.supervised))


def fitting(
    rendered: Trajectories, path: str | Path, longest: int, overlong: str, say: Callable[[str], None]
) -> np.ndarray:
    """Indices of the trajectories of up to `longest` tokens; `say` is told how many there are.

    Raises UserError when there is none, or one too long with overlong "error" in place of "skip".
    """
    lengths, fits = rendered.lengths, rendered.lengths <= longest
    if overlong == "error" and not fits.all():
        first = fits.argmin()
        raise UserError(
            f"{path}: trajectory {first + 1} has {lengths[first]} tokens, --max-length is {longest}; "
            "shorten it, raise --max-length, or skip it with --overlong skip"
        )
    if not fits.any():
        raise UserError(f"{path}: all trajectories have over {longest} tokens; raise --max-length")
    say(
        f"{path}: {fits.sum():,} trajectories, {lengths[fits].sum():,} tokens, "
        f"{rendered.supervised[fits].sum():,} of them supervised; "
        f"{(~fits).sum():,} of over {longest:,} tokens skipped"
    )
    return np.flatnonzero(fits)


# ---- rendering ----


def flatten(examples: Iterable[Example]) -> dict[str, bytearray]:
    """The bytes of each array of KINDS."""
    flat = {name: bytearray() for name in KINDS}
    for example in examples:
        ids = np.array(example.input_ids, np.int32).tobytes()
        trained = np.array(example.labels) != -100
        role_ids = np.array(example.role_ids, np.int8).tobytes()
        flat["input_ids"] += ids
        flat["trained"] += trained.tobytes()
        flat["role_ids"] += role_ids
        flat["lengths"] += np.int32(len(trained)).tobytes()
        flat["supervised"] += np.int32(trained[1:].sum()).tobytes()  # nothing predicts the first token
        flat["digests"] += hashlib.sha256(ids + trained.tobytes() + role_ids).digest()[:8]
    return flat


def render_lines(path: str | Path, frame: Frame, lines: Iterable[tuple[int, bytes]]) -> dict[str, bytearray]:
    """Numbered lines of a file checked and rendered, as `flatten` gives them. Raises UserError."""
    records = (data.read_line(line, f"{path}:{number}") for number, line in lines)
    return flatten(data.render(record, frame) for record in records)


def render_here(path: str | Path, frame: Frame) -> Iterator[dict[str, bytearray]]:
    """A file in chunks of CHUNK lines, rendered by this process. Raises UserError for the first fault."""
    lines = data.numbered_lines(path)
    while chunk := list(islice(lines, CHUNK)):
        yield render_lines(path, frame, chunk)


def render_in_workers(path: str | Path, frame: Frame, workers: int) -> Iterator[dict[str, bytearray]]:
    """The same, rendered by several processes, in the order of the file; few chunks are ahead of the reader.

    Workers are spawned, not forked, as threads may run here; and they load the tokenizer for themselves, as
    one that is sent forgets settings. They are told where their lines stand and read them for themselves:
    with lines in the pipe to a worker that is killed, Python 3.10 waits for ever.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    begun: deque[Future] = deque()
    source = frame.folder, frame.name, frame.prompts
    try:
        for span in spans(path):
            begun.append(pool.submit(work, path, source, *span))
            if len(begun) > AHEAD * workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    except BrokenProcessPool:
        fault = "a process that rendered it was killed, mostly for lack of memory"
        raise UserError(f"{path}: {fault}; free memory") from None
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """In a worker: leave Ctrl-C to the process that started it, and end with that one, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()


def spans(path: str | Path) -> Iterator[tuple[int, int, int]]:
    """Of CHUNK lines at a time the first one's number, where it begins, and the bytes of all."""
    number, start = 1, 0
    with open_file(path) as file:
        while lines := list(islice(file, CHUNK)):
            size = sum(map(len, lines))
            yield number, start, size
            number, start = number + len(lines), start + size


def work(path: str | Path, source: tuple, number: int, start: int, size: int) -> dict[str, bytearray]:
    """In a worker: render the lines of a span. source: the arguments of load_frame."""
    with open_file(path) as file:
        file.seek(start)
        lines = enumerate(BytesIO(file.read(size)), number)
    written = ((number, line) for number, line in lines if line.strip())
    return render_lines(path, frame_of_worker(*source), written)


frame_of_worker = lru_cache(load_frame)  # each worker loads it once


def render_file(
    path: str | Path, frame: Frame, workers: int = 1, total: int | None = None, hide: bool | None = None
) -> Trajectories:
    """Read, check and render a file, in this process or in several workers; the result is the same.

    total, of the records, and hide are for the bar. Raises UserError for the first fault in the file.
    """
    flat = {name: bytearray() for name in KINDS}
    chunks = render_in_workers(path, frame, workers) if workers > 1 else render_here(path, frame)
    bar = tqdm(total=total, desc=f"rendering {Path(path).name}", disable=hide, leave=False, unit=" lines")
    with closing(chunks), bar:
        for chunk in chunks:
            for name, part in chunk.items():
                flat[name] += part
            bar.update(len(np.frombuffer(chunk["lengths"], KINDS["lengths"])))
    return Trajectories.of(flat)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_held_out(
    path: Path, frame: Frame, longest: int, overlong: str, say: Callable[[str], None], hide: bool | None
) -> list[HeldOut]:
    """A held-out set, which is small, with its records; without what is too long. Raises UserError."""
    records = data.read_records(path)
    bar = tqdm(records, desc=f"rendering {path.name}", disable=hide, leave=False)
    rendered = Trajectories.of(flatten(data.render(record, frame) for record in bar))
    chosen = fitting(rendered, path, longest, overlong, say)
    return [HeldOut(**vars(rendered[i]), record=records[i]) for i in chosen]


# ---- the cache ----

# What a record renders to depends on the code that reads and renders it. A version number would have to be
# raised by hand at every change and would be forgotten; the sources change by themselves.
ROOT = Path(__file__).resolve().parent.parent
SOURCES = [ROOT / "data.py", *sorted(ROOT.glob("formats/*.py")), ROOT / "engine/dataset.py"]


def default_cache() -> str:
    """The user's; '' for one without a home, as in a container under a number alone."""
    try:
        return str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "moragent")
    except RuntimeError:
        return ""


def load(
    path: str | Path,
    frame: Frame,
    cache: str = "",
    workers: int | None = None,
    say: Callable[[str], None] = print,
    hide: bool | None = None,
) -> Trajectories:
    """A file of records, rendered for the model of a frame; from the cache if it is there, else put there.

    workers: at most so many, by default one per core. Without a cache folder nothing is kept; one that
    cannot be written, and a damaged file, are told to `say`. Raises UserError.
    """
    key, total = fingerprint(path, frame) if Path(path).is_file() else ("", None)  # a pipe can be read once
    kept = Path(cache) / f"{key}.safetensors" if cache and key else None
    if kept and (found := read_kept(kept, say)):
        return found
    most = cores() if workers is None else workers
    rendered = render_file(path, frame, min(most, (total or 0) // LINES_PER_WORKER), total, hide)
    if not kept:
        return rendered
    tensors = {name: torch.from_numpy(getattr(rendered, name)) for name in KINDS}
    try:
        write_whole(kept, lambda temporary: save_file(tensors, temporary))
        remove_left_overs(kept.parent)
    except UserError as error:
        say(f"--cache: not kept for the next start: {error}")
        return rendered
    return read_kept(kept, say) or rendered  # mapped, so that the memory is free again


def fingerprint(path: str | Path, frame: Frame) -> tuple[str, int]:
    """A digest of all that decides what a file renders to, in hex, and the number of its records."""
    settings = ROLES, tokenizers.__version__, frame.name, frame.prompts
    whole, records = hashlib.sha256(repr(settings).encode()), 0
    for source in (*SOURCES, *(frame.folder / name for name in ("config.json", "tokenizer.json"))):
        # a digest each, of one length: joined, no two different sets of files are the same bytes
        whole.update(hashlib.sha256(source.read_bytes()).digest())
    for _, line in data.numbered_lines(path):
        whole.update(line)
        records += 1
    return whole.hexdigest(), records


def read_kept(path: Path, say: Callable[[str], None]) -> Trajectories | None:
    """Map a file of the cache into memory; None when there is none, or a damaged one, which `say` is told."""
    if not os.path.lexists(path):
        return None
    try:
        tensors, metadata = load_file(path)
        if CHECKSUM not in metadata or tensors.keys() != KINDS.keys():
            raise UserError(f"{path}: not of this code")
    except UserError as fault:
        say(f"--cache: {fault}; rendered anew")
        return None
    return Trajectories.of({name: tensor.numpy() for name, tensor in tensors.items()})
