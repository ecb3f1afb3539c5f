"""How fast training data is read, checked and rendered: by one process, by one per core, and from the cache.

    python -m benchmarks.tokenise                  100,000 trajectories, the tokenizer of tiny/
    python -m benchmarks.tokenise --count 5000 --model DIR

The trajectories are those of bfcl.jsonl over and over, each with another number in its first question. Every
row is measured in a process of its own, from the first call to the last token; starting Python and importing
torch is left out. Memory is the peak of that process and of the largest of its workers.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cli import ArgumentParser, number, run

ROOT = Path(__file__).resolve().parent.parent


def write_sample(path: Path, count: int) -> None:
    records = [json.loads(line) for line in (ROOT / "bfcl.jsonl").read_text("utf-8").splitlines()]
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            record = records[i % len(records)]
            first, *others = record["trajectory"]
            first = first | {"content": f"Question {i}. {first['content']}"}
            file.write(json.dumps(record | {"trajectory": [first, *others]}) + "\n")


def measure(kind: str, path: str, model: str, cache: str) -> dict:
    """One row, in this process."""
    from engine import dataset

    started = time.perf_counter()
    if kind in ("serial", "parallel"):
        found = dataset.render_file(path, model, dataset.cores() if kind == "parallel" else 1)
    else:
        found = dataset.load(path, model, cache)
    if kind == "cache, every token read":
        for trajectory in found:
            assert len(trajectory.example.labels) == trajectory.length
    seconds = time.perf_counter() - started
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    unit = 1 if sys.platform == "darwin" else 1024
    tokens = int(found.lengths.sum())
    peaks = [peak * unit / 2**20 for peak in peaks]
    return dict(seconds=seconds, count=len(found), tokens=tokens, peaks=peaks, cores=dataset.cores())


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="tokenise.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=number(int, 1), default=100_000, metavar="N", help="trajectories")
    parser.add_argument("--model", default=str(ROOT / "tiny"), metavar="DIR", help="whose tokenizer is used")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.jsonl"
        write_sample(path, args.count)
        print(f"{args.count:,} trajectories, {path.stat().st_size / 1e6:,.0f} MB of JSON, {args.model}")
        print(f"{'':25}{'seconds':>9}{'trajectories/s':>16}{'tokens/s':>13}{'peak MB':>9}{'of a worker':>13}")
        for kind in ("serial", "parallel", "build the cache", "cache, opened", "cache, every token read"):
            job = [
                sys.executable,
                "-m",
                "benchmarks.tokenise",
                "--row",
                kind,
                path,
                args.model,
                Path(folder) / "cache",
            ]
            row = json.loads(subprocess.run(job, check=True, stdout=subprocess.PIPE).stdout)
            name = f"{kind}, {row['cores']} cores" if kind == "parallel" else kind
            rates = f"{row['count'] / row['seconds']:16,.0f}{row['tokens'] / row['seconds']:13,.0f}"
            peaks = f"{row['peaks'][0]:9,.0f}{row['peaks'][1]:13,.0f}"
            print(f"{name:25}{row['seconds']:9.2f}{rates}{peaks}", flush=True)
        print(f"{row['tokens']:,} tokens")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--row"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        sys.exit(run(main))
