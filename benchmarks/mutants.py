"""Mutation tests: one small wrong change of the code at a time, and whether the tests named beside it fail.

    python -m benchmarks.mutants                  all of mutants.txt, in copies of the checkout: some minutes
    python -m benchmarks.mutants --only fused     those whose file, texts or tests hold this word

mutants.txt has a block for each mutant: the file and the tests that should notice; `-`, the text as it is;
`+`, the text in its place. `=` gives the reason why no test fails, for a change that has no effect on results
or needs what is absent here. The tests have to pass without the change, a text that does not stand exactly
once in its file is an error, and so is a change after which the tests cannot be run at all. What is not over
within two minutes counts as caught. Exit code 1: a mutant without such a reason survives.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cli import ArgumentParser, UserError, number, open_file, run

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".txt")
LONGEST = 120  # seconds
PYTEST = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
# without bytecode: a file changed twice in a second could pass for the one before
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass
class Mutant:
    file: str
    tests: list[str]
    before: str
    after: str
    reason: str  # why it survives, or nothing

    def __str__(self) -> str:
        texts = [f"  - {line}" for line in self.before.split("\n")]
        texts += [f"  + {line}" for line in self.after.split("\n")]
        return "\n".join([f"{self.file}  {' '.join(self.tests)}", *texts])


# ---- the list ----


def read_mutants(path: Path, root: Path) -> list[Mutant]:
    """The mutants of a list, for the checkout at `root`. Raises UserError with all faults of all mutants."""
    try:
        with open_file(path) as file:
            text = file.read().decode()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted a list of mutants") from None
    mutants = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if lines:
            mutants.append(read_block(lines))
    if faults := [fault for mutant in mutants if (fault := fault_of(mutant, root))]:
        raise UserError(f"{path}: {'; '.join(faults)}")
    return mutants


def read_block(lines: list[str]) -> Mutant:
    """A line with the file and its tests, then the texts."""
    file, *tests = lines[0].split()
    before, after, reason = ("\n".join(text[2:] for text in lines[1:] if text[0] == mark) for mark in "-+=")
    return Mutant(file, tests, before, after, reason)


def fault_of(mutant: Mutant, root: Path) -> str | None:
    """What is wrong with an entry of the list; None if nothing is."""
    path, at = root / mutant.file, f"{mutant.file}: {mutant.before!r:.80}"
    text = path.read_text("utf-8") if path.is_file() else ""
    count = text.count(mutant.before) if mutant.before else 0
    if count != 1:
        return f"{at} stands there {count} times, wanted once"
    if not mutant.tests or mutant.before == mutant.after:
        return f"{at} wants tests and another text"
    try:
        compile(text.replace(mutant.before, mutant.after), mutant.file, "exec")
    except SyntaxError as error:
        return f"{at} becomes no Python: {error.msg}"
    return None


# ---- copies of the checkout, and tests in them ----


def copy_checkout(root: Path, to: Path) -> Path:
    """The files that git knows or would add, as they are now."""
    command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, to / name)
    return to


def in_copies(folders: list[Path], work: Callable[[Path, Any], Any], items: Iterable) -> Iterator:
    """work(copy, item) for all items, one at a time in each copy; the results in the order of the items."""
    free = SimpleQueue()
    for folder in folders:
        free.put(folder)

    def in_a_free_one(item: Any) -> Any:
        folder = free.get()
        try:
            return work(folder, item)
        finally:
            free.put(folder)

    pool = ThreadPoolExecutor(len(folders))
    try:
        yield from pool.map(in_a_free_one, items)
    finally:
        pool.shutdown(cancel_futures=True)


def run_tests(folder: Path, tests: list[str], longest: int | None = None) -> tuple[int, str]:
    """pytest's exit code, 0 for passed and 1 for failed, and what it prints. Too long is failed."""
    command = [*PYTEST, *(f"tests/{test}" for test in tests)]
    options = dict(cwd=folder, env=os.environ | ENVIRONMENT, timeout=longest)
    try:
        done = subprocess.run(command, capture_output=True, text=True, **options)
    except subprocess.TimeoutExpired:
        return 1, f"not over within {longest} s"
    return done.returncode, done.stdout + done.stderr


def check_unchanged(folder: Path, tests: list[str]) -> None:
    """Raises UserError where a test fails without any change."""
    code, said = run_tests(folder, tests)
    if code:
        raise UserError(f"without any change, of {' '.join(tests)}: {said[-400:]}")


def is_caught(folder: Path, mutant: Mutant) -> bool:
    """Whether a test fails on the mutant. Raises UserError where the tests cannot even be run."""
    path = folder / mutant.file
    text = path.read_text("utf-8")
    path.write_text(text.replace(mutant.before, mutant.after), "utf-8")
    code, said = run_tests(folder, mutant.tests, LONGEST)
    path.write_text(text, "utf-8")
    if code not in (0, 1):
        raise UserError(f"{mutant.file}: {mutant.after!r:.80}: the tests cannot be run: {said[-400:]}")
    return code == 1


# ---- the command ----


def parse_args(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    add, cores = parser.add_argument, os.cpu_count() or 1
    add("--only", default="", metavar="TEXT", help="mutants with this in their file, texts or tests; '': all")
    add("--jobs", type=number(int, 1), default=cores, metavar="N", help="mutants at once")
    add("--list", type=Path, default=LIST, metavar="FILE", help="of the mutants")
    add("--root", type=Path, default=ROOT, metavar="DIR", help="the checkout")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    mutants = [mutant for mutant in read_mutants(args.list, args.root) if args.only in str(mutant)]
    if not mutants:
        raise UserError(f"--only: got {args.only!r}, which no mutant of {args.list} holds")
    tests: dict[str, set[str]] = {}  # by file
    for mutant in mutants:
        for test in mutant.tests:
            tests.setdefault(test.split("::")[0], set()).add(test)

    survivors = []
    with tempfile.TemporaryDirectory() as place:
        folders = [copy_checkout(args.root, Path(place, str(i))) for i in range(args.jobs)]
        for _ in in_copies(folders, check_unchanged, map(sorted, tests.values())):
            pass
        print(f"{sum(map(len, tests.values()))} tests pass; now {len(mutants)} mutants", flush=True)
        for mutant, caught in zip(mutants, in_copies(folders, is_caught, mutants), strict=True):
            change = f"{mutant.before!r:.50} -> {mutant.after!r:.50}"
            print(f"{'caught  ' if caught else 'survives'} {mutant.file}: {change}", flush=True)
            if not caught:
                survivors.append(mutant)
    if report(mutants, survivors):
        sys.exit(1)


def report(mutants: list[Mutant], survivors: list[Mutant]) -> int:
    """Print the survivors and the share that is caught; return how many survive without a reason."""
    missed = [mutant for mutant in survivors if not mutant.reason]
    excused = [mutant for mutant in survivors if mutant.reason]
    for mutant in excused:
        print(f"\n{mutant}\n  = {mutant.reason}")
    for mutant in missed:
        print(f"\n{mutant}\n  SURVIVES")
    counted = len(mutants) - len(excused)
    caught = counted - len(missed)
    print(f"\n{caught} of {counted} mutants caught; {len(excused)} more survive for the reasons given")
    return len(missed)


if __name__ == "__main__":
    sys.exit(run(main))
