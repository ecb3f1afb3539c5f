"""How alike the LoRAs of an adapter are: Fig. 5, over all its linears, from the adapter's files alone.

For the LoRAs i and j of one linear, with Delta_i = B_i A_i as one long vector:

  cosine    <Delta_i, Delta_j> / (|Delta_i| |Delta_j|), the measure that is meant by Fig. 5 in all likelihood;
            by two [rank, rank] products, never the [out, in] matrices
  A, B      |A_i A_j^T| / (|A_i| |A_j|) and the same of B: what Eq. 13 drives, without the norms
  overlap   mean squared cosine of the principal angles between the row spaces of A_i and A_j, 0 to 1

Random factors are nearly orthogonal in many dimensions, so a small value means little without that of LoRAs
of different roles beside it, which no loss has driven apart.
"""

import json
from itertools import combinations, product
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mor import ROLES

MEASURES = ("cosine", "A", "B", "overlap")


def similarity_of(folder: Path) -> dict:
    """Of the routed LoRAs of the adapter in a folder: matrices of one linear, means of all.

    "shown": its name, and for each role the matrix of cosines (None where B is zero). "roles": for each role
    and measure, the mean over pairs of each linear, by name. "between": the same over pairs of two roles.
    "norms": for each role the mean norm of Delta in each linear.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    linears = sorted({name.rsplit(".lora_A.", 1)[0] for name in tensors if ".lora_A." in name})
    queries = [name for name in linears if name.endswith(("q_proj", "qkv_proj"))]
    shown = queries[min(7, len(queries) - 1)]  # the paper's is the query module of layer 7
    found = {"shown": {"linear": shown}, "roles": {}, "between": {}, "norms": {}}
    routed = [role for role, loras in zip(ROLES, config["loras"], strict=True) if loras > 2]
    for linear in linears:
        loras = {role: routed_loras(tensors, linear, role) for role in routed}
        for role in routed:
            append_means(found["roles"].setdefault(role, {}), list(combinations(loras[role], 2)))
            norms = [norm_of(*lora) for lora in loras[role]]
            found["norms"].setdefault(role, []).append(rounded(sum(norms) / len(norms)))
        across = []
        for one, other in combinations(routed, 2):
            across += product(loras[one], loras[other])
        append_means(found["between"], across)
    for role in routed:
        of_role = routed_loras(tensors, shown, role)
        found["shown"][role] = [[rounded(cosine(*one, *other)) for other in of_role] for one in of_role]
    return found | {"linears": linears}


def routed_loras(tensors: dict[str, Tensor], linear: str, role: str) -> list[tuple[Tensor, Tensor]]:
    """A [rank, in] and B [rank, out] of each routed LoRA; number 0, the shared one, is left out."""
    A, B = (tensors[f"{linear}.{kind}.{role}"] for kind in ("lora_A", "lora_B"))
    return list(zip(A[1:], B[1:], strict=True))


def append_means(columns: dict[str, list], pairs: list[tuple]) -> None:
    """Add to the column of each measure the mean of its absolute value over pairs of LoRAs."""
    for name in MEASURES:
        values = [abs(measure(name, *one, *other)) for one, other in pairs]
        columns.setdefault(name, []).append(rounded(sum(values) / len(values)) if values else None)


def measure(name: str, A_i: Tensor, B_i: Tensor, A_j: Tensor, B_j: Tensor) -> float:
    """One of MEASURES for two LoRAs of one linear: A [rank, in], B [rank, out]."""
    if name == "cosine":
        return cosine(A_i, B_i, A_j, B_j)
    if name == "overlap":
        return overlap(A_i, A_j)
    return alignment(A_i, A_j) if name == "A" else alignment(B_i, B_j)


def inner(A_i: Tensor, B_i: Tensor, A_j: Tensor, B_j: Tensor) -> float:
    """<B_i^T A_i, B_j^T A_j> as stored: the sum of (B_i B_j^T) * (A_i A_j^T)."""
    return float((B_i @ B_j.T * (A_i @ A_j.T)).sum())


def norm_of(A: Tensor, B: Tensor) -> float:
    """Frobenius norm of Delta."""
    return max(inner(A, B, A, B), 0.0) ** 0.5


def cosine(A_i: Tensor, B_i: Tensor, A_j: Tensor, B_j: Tensor) -> float:
    """Of Delta_i and Delta_j; NaN where one of them is zero."""
    norms = norm_of(A_i, B_i) * norm_of(A_j, B_j)
    return inner(A_i, B_i, A_j, B_j) / norms if norms else float("nan")


def alignment(one: Tensor, other: Tensor) -> float:
    """|one other^T| / (|one| |other|), Frobenius norms, from 0 to 1; NaN where one is zero."""
    norms = float(one.norm() * other.norm())
    return float((one @ other.T).norm()) / norms if norms else float("nan")


def overlap(one: Tensor, other: Tensor) -> float:
    """Mean squared cosine of the principal angles between two row spaces [rank, d]."""
    bases = [torch.linalg.qr(matrix.T).Q for matrix in (one, other)]
    return float((bases[0].T @ bases[1]).square().sum()) / min(len(one), len(other))


def rounded(value: float) -> float | None:
    """Five digits are enough; NaN is None, as JSON has none."""
    return None if value != value else float(f"{value:.5g}")
