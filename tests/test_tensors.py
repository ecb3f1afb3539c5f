"""tensors.py: the library's own bytes, and every flipped bit of them."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cli import UserError
from engine.tensors import CHECKSUM, DTYPES, checksum, load_file, save_file

TENSORS = {
    **{f"of {kind}": torch.arange(6).reshape(2, 3).to(dtype) for dtype, kind in DTYPES.items()},
    "ä": torch.ones(2),
    "a number": torch.tensor(3.5),
    "none": torch.zeros(0, 4),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
}


@pytest.fixture
def path(tmp_path) -> Path:
    save_file(TENSORS, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_the_file_is_the_one_that_the_library_writes(path):
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    assert path.read_bytes() == save(contiguous, {CHECKSUM: checksum(TENSORS, {})})


def test_what_is_read_is_what_was_written(tmp_path):
    save_file(TENSORS, tmp_path / "b.safetensors", {"state": "{}"})
    tensors, metadata = load_file(tmp_path / "b.safetensors")
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)
    assert metadata == {"state": "{}", CHECKSUM: checksum(TENSORS, {"state": "{}"})}


def test_every_flipped_bit_is_noticed(tmp_path):
    """Or it has changed nothing: a blank of the header, or the word sha256, which readers look for."""
    path, tensors = tmp_path / "c.safetensors", {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.bool)}
    save_file(tensors, path, {"state": "7"})
    whole, passed = path.read_bytes(), 0
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        try:
            found, metadata = load_file(path)
        except UserError as fault:
            assert str(fault).startswith(f"{path}: ")
            continue
        passed += 1
        assert CHECKSUM not in metadata or checksum(found, {"state": "7"}) == metadata[CHECKSUM]
    assert passed <= len(CHECKSUM)


def test_files_have_the_mode_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        save_file(TENSORS, tmp_path / "d.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "d.safetensors").stat().st_mode & 0o777 == 0o640
    assert [file.name for file in tmp_path.iterdir()] == ["d.safetensors"]


def test_what_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("loop", tmp_path / "loop")
    (tmp_path / "text").write_text("x" * 100)
    for name, words in (
        ("none", "No such file"),
        ("pipe", "named pipe"),
        ("loop", "links"),
        ("text", "whole"),
    ):
        with pytest.raises(UserError, match=words):
            load_file(tmp_path / name)
    with pytest.raises(UserError, match="directory"):
        load_file(tmp_path)
