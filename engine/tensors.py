"""Safetensors files with a checksum, written tensor by tensor.

The library's own `save_file` writes to a name of its own beside the target, which a killed process leaves
behind, and gives the file to its owner alone; its `save` holds all of a checkpoint in memory once more.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cli import UserError, open_file
from formats.checkpoint import CHECKSUM, checksum, raw_bytes

# Names of dtypes in the format. The library sorts tensors by dtype in this order, then by name.
DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors in the safetensors format, their checksum among the metadata. Raises OSError."""
    metadata = dict(metadata or {})
    header: dict[str, dict] = {"__metadata__": metadata | {CHECKSUM: checksum(tensors, metadata)}}
    order, end = list(DTYPES), 0
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.itemsize
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(raw_bytes(tensors[name]))


def load_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, mapped into memory, and metadata. Raises UserError: unreadable, or not what was written.

    A file without a checksum passes: other programs and older code write none.
    """
    try:
        open_file(path).close()  # the library takes a file that it may not read for an absent one
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no whole safetensors file ({error})") from None
    check(tensors, metadata, path)
    return tensors, metadata


def check(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Raises UserError where the checksum among the metadata, if there is one, is of something else."""
    rest = {key: text for key, text in metadata.items() if key != CHECKSUM}
    if CHECKSUM in metadata and metadata[CHECKSUM] != checksum(tensors, rest):
        raise UserError(f"{path}: damaged, its checksum is of other content")
