"""How fast training data is read, checked and rendered: by one process, by one per core, and from the cache.

    python -m benchmarks.tokenise                  100,000 trajectories, the tokenizer of tiny/
    python -m benchmarks.tokenise --count 5000 --model DIR

The trajectories are those of bfcl.jsonl over and over, each with another number in its first question. Every
row is measured in a process of its own, from the first call to the last token; starting Python and importing
torch is left out. Memory is the peak of that process and of the largest of its workers.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from benchmarks.apart import in_new_process, peak_bytes
from cli import ArgumentParser, layout, number, run

ROOT = Path(__file__).resolve().parent.parent
SERIAL, PARALLEL, BUILD, OPEN, READ = ROWS = (
    "one process",
    "one process per core",
    "build the cache",
    "cache, opened",
    "cache, every token read",
)


def write_sample(path: Path, count: int) -> None:
    records = [json.loads(line) for line in (ROOT / "bfcl.jsonl").read_text("utf-8").splitlines()]
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            record = records[i % len(records)]
            first, *others = record["trajectory"]
            first = first | {"content": f"Question {i}. {first['content']}"}
            file.write(json.dumps(record | {"trajectory": [first, *others]}) + "\n")


def measure(row: str, path: Path, model: str, cache: Path) -> dict:
    """One row, in this process. Raises UserError."""
    from engine import dataset  # not above: the process that prints the table needs no torch
    from formats.frames import load_frame

    frame = load_frame(model)
    started = time.perf_counter()
    if row == SERIAL:
        found = dataset.render_file(path, frame)
    elif row == PARALLEL:
        found = dataset.render_file(path, frame, dataset.cores())
    else:
        found = dataset.load(path, frame, str(cache))
    if row == READ:
        for trajectory in found:
            assert len(trajectory.example.labels) == trajectory.length
    return {
        "seconds": time.perf_counter() - started,
        "trajectories": len(found),
        "tokens": int(found.lengths.sum()),
        "peak": peak_bytes(),
        "peak of a worker": peak_bytes(resource.RUSAGE_CHILDREN),
    }


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.tokenise", description=__doc__)
    parser.add_argument("--count", type=number(int, 1), default=100_000, metavar="N", help="trajectories")
    parser.add_argument("--model", default=str(ROOT / "tiny"), metavar="DIR", help="whose tokenizer is used")
    args = parser.parse_args(argv)
    table = [["", "seconds", "trajectories/s", "tokens/s", "peak MB", "of a worker"]]
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "sample.jsonl", Path(folder) / "cache"
        write_sample(path, args.count)
        print(f"{args.count:,} trajectories, {path.stat().st_size / 1e6:,.0f} MB of JSON, {args.model}")
        for row in tqdm(ROWS, disable=None, leave=False):
            got = in_new_process(measure, row, path, args.model, cache)
            cells = [row, f"{got['seconds']:.2f}"]
            cells += [f"{got[what] / got['seconds']:,.0f}" for what in ("trajectories", "tokens")]
            cells += [f"{got[what] / 2**20:,.0f}" for what in ("peak", "peak of a worker")]
            table.append(cells)
    print(f"{got['tokens']:,} tokens\n\n{layout(table)}", end="")


if __name__ == "__main__":
    sys.exit(run(main))
