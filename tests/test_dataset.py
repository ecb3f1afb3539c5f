"""dataset.py against data.read_records and data.render in one process, and its cache against no cache."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import data
import train
from cli import UserError
from engine import dataset, devices
from formats.frames import load_frame

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tiny"
FRAME = load_frame(TINY)
TIMEOUT = 120  # seconds; for machines that do something else as well
LINES = (ROOT / "bfcl.jsonl").read_bytes().splitlines(keepends=True)
CALLED = pytest.fail  # for what must not be called


@pytest.fixture
def sample(tmp_path) -> Path:
    """Twenty records."""
    path = tmp_path / "sample.jsonl"
    path.write_bytes(b"".join(LINES[:20]))
    return path


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def naive(path: Path) -> list[data.Example]:
    frame = data.load_frame(TINY)
    return [data.render(record, frame) for record in data.read_records(path)]


def check_same(found: dataset.Trajectories, wanted: list[data.Example]) -> None:
    assert len(found) == len(wanted)
    for trajectory, example in zip(found, wanted, strict=True):
        for name, values in vars(example).items():
            assert getattr(trajectory.example, name).tolist() == values
        assert trajectory.length == len(example.input_ids)
        assert trajectory.supervised == sum(label >= 0 for label in example.labels[1:])


def fault_of(call, *args) -> str:
    with pytest.raises(UserError) as error:
        call(*args)
    return str(error.value)


def test_a_trajectory_may_be_as_long_as_allowed(sample):
    """No longer: that one is left out, or refused."""
    rendered, said = dataset.render_file(sample, FRAME), []
    longest = int(rendered.lengths[0])
    kept = dataset.fitting(rendered, sample, longest, "skip", said.append)
    assert kept.tolist() == [i for i, length in enumerate(rendered.lengths) if length <= longest]
    assert 0 in kept and 0 < len(kept) < 20 and f"{20 - len(kept)} of over {longest} tokens" in said[0]
    first = next(i for i, length in enumerate(rendered.lengths, 1) if length > longest)
    fault = fault_of(dataset.fitting, rendered, sample, longest, "error", said.append)
    assert f"trajectory {first} has {rendered.lengths[first - 1]} tokens" in fault
    assert "raise --max-length" in fault_of(dataset.fitting, rendered, sample, 1, "skip", said.append)


# ---- rendering ----


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("workers", [1, 3])
def test_equals_read_and_render(tmp_path, workers, monkeypatch):
    """Five chunks, a short one last, in the order of the file; blank lines are passed over."""
    monkeypatch.setattr(dataset, "AHEAD", 1)  # so that the first is read before the last is begun
    path = tmp_path / "many.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n \r\n".join(LINES[: 4 * dataset.CHUNK + 5]))
    found, wanted = dataset.render_file(path, FRAME, workers), naive(path)
    check_same(found, wanted)
    batch, naive_batch = (
        data.collate([found[i].example for i in (7, 3)]),
        data.collate([wanted[7], wanted[3]]),
    )
    assert batch.lengths == naive_batch.lengths
    for name in ("input_ids", "labels", "role_ids"):
        assert torch.equal(getattr(batch, name), getattr(naive_batch, name))


def test_the_first_fault_of_the_file_wins(tmp_path):
    """The second worker meets its own at once, the first one at the end of its chunk."""
    lines = LINES[: 3 * dataset.CHUNK]
    lines[dataset.CHUNK - 1], lines[dataset.CHUNK] = b'{"trajectory": []}\n', b"{\n"
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"".join(lines))
    fault = fault_of(dataset.render_file, path, FRAME, 2)
    assert fault == fault_of(data.read_records, path) and f"{path}:{dataset.CHUNK}: trajectory" in fault
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "content", [b"", b"\n \n", b"\n\n{", b"[]", LINES[0] + b"\xff\n", LINES[0] + b"\n" + LINES[1][:50], None]
)
def test_faults_are_those_of_read_records(tmp_path, cache, content):
    path = tmp_path / "bad.jsonl"
    path.mkdir() if content is None else path.write_bytes(content)
    wanted = fault_of(data.read_records, path)
    assert fault_of(dataset.render_file, path, FRAME) == fault_of(dataset.load, path, FRAME, cache) == wanted
    absent = tmp_path / "absent.jsonl"
    assert fault_of(dataset.load, absent, FRAME, cache) == fault_of(data.read_records, absent)
    assert not cache.exists()


def test_workers_are_started_for_large_files_only(sample, monkeypatch):
    asked, (_, total) = [], dataset.fingerprint(sample, FRAME)
    monkeypatch.setattr(dataset, "render_file", lambda path, folder, workers, *_: asked.append(workers))
    monkeypatch.setattr(dataset, "cores", lambda: 64)
    for per_worker in (2000, total // 2, 1):
        monkeypatch.setattr(dataset, "LINES_PER_WORKER", per_worker)
        dataset.load(sample, FRAME)
    dataset.load(sample, FRAME, workers=3)
    assert asked == [0, 2, total, 3]


def test_a_worker_that_is_killed_is_missed(tmp_path):
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"".join(LINES))
    chunks = dataset.render_in_workers(path, FRAME, 2)
    next(chunks)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    fault = fault_of(list, chunks)
    assert fault.startswith(f"{path}: ") and "was killed" in fault and "\n" not in fault
    assert not multiprocessing.active_children()


INTERRUPTED = """
import sys, cli
from engine import dataset
from formats.frames import load_frame
sys.exit(cli.run(lambda argv: dataset.render_file(argv[0], load_frame(argv[1]), 2, hide=False), sys.argv[1:]))
"""


STOPS = {  # what is on the screen then, whom the signal reaches, which one, the exit code
    "Ctrl-C while they start": (b"rendering", os.killpg, signal.SIGINT, 130),
    "Ctrl-C while they render": (b"64 lines", os.killpg, signal.SIGINT, 130),
    "the first process is killed": (b"64 lines", os.kill, signal.SIGKILL, -signal.SIGKILL),
}


@pytest.mark.parametrize("shown, kill, number, code", STOPS.values(), ids=STOPS)
def test_no_worker_stays_behind(tmp_path, shown, kill, number, code):
    """A terminal sends Ctrl-C to all processes at once. The pipe ends when the last process has closed it."""
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"".join(LINES) * 20)
    command = [sys.executable, "-c", INTERRUPTED, path, TINY]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:
        output = b""
        while shown not in output:
            output += process.stdout.read1()
            assert process.poll() is None, output
        kill(process.pid, number)
        output += process.communicate(timeout=TIMEOUT)[0]
    assert process.returncode == code, output


# ---- the cache ----


def kept(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def test_second_load_renders_nothing(sample, cache, monkeypatch):
    """It is mapped, a token takes 6 bytes, and the same data has the same digests."""
    first = dataset.load(sample, FRAME, cache)
    (file,) = kept(cache)
    assert 6 * len(first.input_ids) < file.stat().st_size < 6 * len(first.input_ids) + 2000
    for name in ("render", "read_line"):
        monkeypatch.setattr(data, name, lambda *_: CALLED("rendered again"))
    second = dataset.load(sample, FRAME, cache, say=CALLED)
    monkeypatch.undo()
    check_same(second, naive(sample))
    if Path("/proc/self/maps").exists():
        assert str(file) in Path("/proc/self/maps").read_text()
    assert np.array_equal(first.digests, second.digests)
    assert np.array_equal(second.digests, dataset.render_file(sample, FRAME).digests)
    assert kept(cache) == [file] and file.suffix == ".safetensors"


def test_whatever_decides_the_tokens_is_in_the_key(sample, tmp_path, monkeypatch):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (model / name).write_bytes((TINY / name).read_bytes())
    frame = load_frame(model)
    keys = [dataset.fingerprint(sample, frame)[0]]
    assert keys[0] == dataset.fingerprint(sample, FRAME)[0]
    assert {source.name for source in dataset.SOURCES} == {
        *("data.py", "dataset.py", "__init__.py", "calls.py", "checkpoint.py"),
        *("formula.py", "frames.py", "prompts.py"),
    }
    for path in (sample, *sorted(model.iterdir())):
        path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
        keys.append(dataset.fingerprint(sample, frame)[0])
    for i, source in enumerate(dataset.SOURCES):
        changed = tmp_path / source.name
        changed.write_bytes(source.read_bytes() + b"#")
        with monkeypatch.context() as patch:
            patch.setattr(dataset, "SOURCES", [*dataset.SOURCES[:i], changed, *dataset.SOURCES[i + 1 :]])
            keys.append(dataset.fingerprint(sample, frame)[0])
    for other in (replace(frame, name="phi3"), replace(frame, prompts="paper")):
        keys.append(dataset.fingerprint(sample, other)[0])
    monkeypatch.setattr(dataset, "ROLES", dataset.ROLES[::-1])
    keys.append(dataset.fingerprint(sample, frame)[0])
    assert len(set(keys)) == len(keys) == 15


def test_changed_data_is_rendered_anew(sample, cache):
    before = dataset.load(sample, FRAME, cache)
    records = data.read_records(sample)
    records[3]["trajectory"][0]["content"] += "!"
    sample.write_text("".join(json.dumps(record) + "\n" for record in records))
    after = dataset.load(sample, FRAME, cache)
    check_same(after, naive(sample))
    assert np.flatnonzero(before.digests != after.digests).tolist() == [3]
    assert len(kept(cache)) == 2


DAMAGES = {
    "empty": lambda whole: b"",
    "cut in the header": lambda whole: whole[:100],
    "cut at the end": lambda whole: whole[:-1],
    "longer": lambda whole: whole + b"\0",
    "zeros": lambda whole: bytes(len(whole)),
    "no safetensors": lambda whole: b"x" * 1000,
    "an array is missing": lambda whole: whole.replace(b"trained", b"trainer", 1),
    "another type": lambda whole: whole.replace(b'"I32"', b'"F32"', 1).replace(b"BOOL", b"I8  ", 1),
    "a bit": lambda whole: whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
    "no checksum": lambda whole: whole.replace(b"sha256", b"sha265", 1),
    "zeros in place of numbers": lambda whole: whole[:1000] + bytes(len(whole) - 1000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_made_anew(sample, cache, damage):
    dataset.load(sample, FRAME, cache)
    (file,) = kept(cache)
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[damage](whole))
    assert file.read_bytes() != whole
    told: list[str] = []
    check_same(dataset.load(sample, FRAME, cache, say=told.append), naive(sample))
    assert kept(cache) == [file] and file.read_bytes() == whole
    assert len(told) == 1 and told[0].startswith("--cache: ") and told[0].endswith("; rendered anew")


KILLED = """
import os, signal, sys
from engine import dataset
from formats.frames import load_frame
def half(tensors, path):
    path.write_bytes(b"half a file")
    os.kill(os.getpid(), signal.SIGKILL)
dataset.save_file = half
dataset.load(sys.argv[1], load_frame(sys.argv[2]), sys.argv[3])
"""


def test_killed_while_it_writes(sample, cache, monkeypatch):
    command = [sys.executable, "-c", KILLED, sample, TINY, cache]
    assert subprocess.run(command, cwd=ROOT, timeout=TIMEOUT).returncode == -signal.SIGKILL
    (left,) = kept(cache)
    assert left.suffix == ".tmp"
    dataset.load(sample, FRAME, cache)
    wanted = naive(sample)
    monkeypatch.setattr(data, "render", CALLED)
    check_same(dataset.load(sample, FRAME, cache), wanted)


def full_disk(tensors, path):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fault", ["no folder", "full disk"])
def test_folder_that_cannot_be_written_is_told_in_one_line(sample, cache, monkeypatch, capsys, fault):
    if fault == "no folder":
        cache.write_text("a file")
    else:
        monkeypatch.setattr(dataset, "save_file", full_disk)
    check_same(dataset.load(sample, FRAME, cache), naive(sample))
    captured = capsys.readouterr()
    assert captured.out.startswith("--cache: ") and captured.out.count("\n") == 1 and not captured.err


def test_without_a_cache_nothing_is_written(sample, cache_folder, capsys):
    before = set(cache_folder.glob("*"))
    check_same(dataset.load(sample, FRAME, ""), naive(sample))
    assert set(cache_folder.glob("*")) == before and not capsys.readouterr().out


def test_a_pipe_is_read_once(sample, cache):
    read, write = os.pipe()
    os.write(write, b"".join(LINES[:2]))
    os.close(write)
    check_same(dataset.load(f"/dev/fd/{read}", FRAME, cache), naive(sample)[:2])
    os.close(read)
    assert not cache.exists()


def test_default_folder(monkeypatch, cache_folder):
    assert dataset.default_cache() == str(cache_folder)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert dataset.default_cache() == "/home/somebody/.cache/moragent"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # who is in no list of users
    assert dataset.default_cache() == ""


# ---- several processes ----


def one_of_two(
    rank: int, meeting: Path, paths: list[Path], cache: Path, answers: multiprocessing.Queue
) -> None:
    """Loads the files; the second process must not render what is in the cache."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    processes, rendered = devices.Processes(rank, 2), []
    render = data.render
    data.render = lambda *args: rendered.append(rank) or render(*args)
    for path in paths:
        args = train.parse_args(["--data", str(path), "--cache", str(cache)])
        try:
            found = len(train.load_trajectories(FRAME, 4096, args, processes))
        except UserError as fault:
            found = str(fault)
        answers.put((rank, found, len(rendered)))


def test_one_process_renders_for_all(sample, cache, tmp_path):
    """And a fault is everybody's fault, so that nobody is left waiting."""
    bad, spawn = tmp_path / "bad.jsonl", multiprocessing.get_context("spawn")
    bad.write_bytes(b"{\n")
    answers, arguments = spawn.Queue(), (tmp_path / "meeting", [sample, bad], cache)
    started = [spawn.Process(target=one_of_two, args=(rank, *arguments, answers)) for rank in range(2)]
    for process in started:
        process.start()
    found = sorted((answers.get(timeout=TIMEOUT) for _ in range(4)), key=str)
    for process in started:
        process.join(TIMEOUT)
    fault = fault_of(data.read_records, bad)
    assert found == sorted([(0, 20, 20), (1, 20, 0), (0, fault, 20), (1, fault, 0)], key=str)
