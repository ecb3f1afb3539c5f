"""A model as generation wants it: few large operations a pass. What it says is what model.py and mor.py say.

A pass over a few new tokens reads every weight and computes little. `for_inference` changes three things:

  weights   are kept in the order in which oneDNN, the CPU's library for matmuls, reads them. A matmul of nine
            rows then takes little longer than that of one; with MKL four rows take nearly twice as long
  linears   that share their input become one, with the names that phi3 has for them (GROUPS)
  adapters  all A and routers of such a group are in the matmul of the base. Rows of all roles meet them all,
            and a row's gates of other roles' LoRAs are 0 (Eq. 6): more FLOPs than mor.py's slices by role,
            fewer operations. Rows stay in sequence order

The model can then no longer be trained, saved or cast.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cli import UserError
from model import Transformer
from mor import ROLES, MoRConfig, MoRLinear, RoleRows

GROUPS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def for_inference(model: Transformer) -> Transformer:
    """Replace the linears of `model` in place; return it."""
    model.requires_grad_(False)
    head = model.lm_head.weight
    adapted = [module for module in model.modules() if isinstance(module, MoRLinear)]
    if adapted:
        dtype = torch.promote_types(head.dtype, torch.float32)
        model.arrange_rows = RowTables(adapted[0].config, dtype, head.device).arrange
    for parent in [module for module in model.modules() if not isinstance(module, MoRLinear)]:
        children = parent.named_children()
        linears = {name: child for name, child in children if isinstance(child, (nn.Linear, MoRLinear))}
        for name, members in _groups(linears):
            joined = _join([linears[member] for member in members])
            for member in members:
                delattr(parent, member)
            setattr(parent, name, joined)
    model.lm_head.weight = head  # engine/loss.py reads it, and it may be the embedding
    return model


def _groups(linears: dict[str, nn.Module]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and members of each new linear. A group is all adapted or all not; others stay alone."""
    for name, members in GROUPS.items():
        if linears.keys() >= set(members) and len({type(linears[member]) for member in members}) == 1:
            linears = {other: linear for other, linear in linears.items() if other not in members}
            yield name, members
    for name in linears:
        yield name, (name,)


def _join(linears: list[nn.Module]) -> nn.Module:
    adapted = isinstance(linears[0], MoRLinear)
    return MoRInference(linears) if adapted else PackedLinear(*_side_by_side(linears))


def _side_by_side(linears: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    weight = torch.cat([linear.weight.detach() for linear in linears])
    return weight, torch.cat(biases) if biases else None


def _packable(weight: Tensor) -> bool:
    """Whether oneDNN takes it. The two operations are those that torch.compile makes of frozen weights."""
    oneDNN = torch.ops.mkldnn
    known = hasattr(oneDNN, "_reorder_linear_weight") and hasattr(oneDNN, "_linear_pointwise")
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not known:
        return False
    narrow = weight.dtype == torch.bfloat16 and oneDNN._is_mkldnn_bf16_supported()
    return narrow or weight.dtype == torch.float32


class PackedLinear(nn.Module):
    """x [T, in] -> [T, out] with a frozen weight [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.bias, self.packed = bias, _packable(weight)
        self.matrix = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packed else weight

    def forward(self, x: Tensor, rows: RoleRows | None = None) -> Tensor:
        if not self.packed:
            return F.linear(x, self.matrix, self.bias)
        if len(x) == 1 and x.dtype == torch.bfloat16:  # one row takes longer than two
            return self(x.expand(2, -1))[:1]
        return torch.ops.mkldnn._linear_pointwise(x, self.matrix, self.bias, "none", [], "")


@dataclass(kw_only=True)
class AllRows(RoleRows):
    """What the adapters of all layers are told of the rows of a pass, which stay in sequence order.

    L is the number of LoRAs of all roles in one adapted linear: the reasoner's, the executor's, the
    summarizer's, the first of each shared.
    """

    loras: slice  # of L: those of the roles present, and of any role between them
    most: int  # LoRAs that the router chooses for a row, the largest top_k among the roles present
    shared: Tensor  # [T, 1, L] 1 at the shared LoRA of the row's role, else 0
    barred: Tensor  # bool [T, 1, L] all but the routed LoRAs of the row's role: its router cannot choose them
    surplus: Tensor | None  # bool [T, 1, most] choices beyond top_k of the row's role; None: there are none


class MoRInference(nn.Module):
    """MoRLinears of one input, G of them, their outputs side by side; L LoRAs of all roles in each."""

    def __init__(self, layers: list[MoRLinear]):
        super().__init__()
        self.config, self.widths = layers[0].config, [layer.base.out_features for layer in layers]
        weight, bias = _side_by_side([layer.base for layer in layers])
        up = [torch.cat([B.flatten(0, 1) for B in layer.lora_B.values()]) for layer in layers]
        if self.config.dora:
            ratios = [layer.ratio().detach() for layer in layers]
            weight = (weight * torch.cat(ratios)[:, None]).to(weight.dtype)
            up = [up[i] * ratio for i, ratio in enumerate(ratios)]
        groups = self.config.groups
        down = [layer.lora_A[role].flatten(0, 1) for layer in layers for role in groups]
        # a score for every LoRA: that of a shared one means nothing without shared_gate
        scores = [layer.router[role] for layer in layers for role in groups]
        if not self.config.shared_gate:
            scores = [F.pad(router, (0, 0, 1, 0)) for router in scores]
        whole = torch.cat([weight, *(part.detach().to(weight.dtype) for part in down + scores)])
        if bias is not None:
            bias = F.pad(bias, (0, len(whole) - len(bias)))
        self.inward = PackedLinear(whole, bias)
        self.up = [B.detach().to(weight.dtype) for B in up]  # [L * rank, out] each

    def forward(self, x: Tensor, rows: AllRows | None = None) -> Tensor:
        """x [T, in], rows in any order -> [T, sum of widths]. Raises UserError without the roles of rows."""
        if rows is None:
            raise UserError("role_ids are missing; an adapted model wants the role 0, 1 or 2 of each token")
        rank, G, L = self.config.rank, len(self.widths), sum(self.config.loras)
        h, z, scores = self.inward(x).split([sum(self.widths), G * L * rank, G * L], dim=1)
        gates = self.gates(scores.unflatten(1, (G, L)), rows)
        z = z.unflatten(1, (G, L, rank)).mul_(gates[..., None])[:, :, rows.loras].flatten(2)
        met = slice(rows.loras.start * rank, rows.loras.stop * rank)
        for i, h_i in enumerate(h.split(self.widths, dim=1)):
            h_i.addmm_(z[:, i], self.up[i][met], alpha=self.config.scale)  # Eqs. 5 and 7
        return h

    def gates(self, scores: Tensor, rows: AllRows) -> Tensor:
        """R of all roles: scores [T, G, L] -> gates of that shape, 0 for LoRAs of other roles (Eq. 6).

        Where one role has fewer LoRAs to choose than another, what it chooses too many gets a weight of 0.
        """
        scores = scores.to(rows.shared.dtype)
        lowest = torch.finfo(scores.dtype).min
        largest, chosen = scores.masked_fill(rows.barred, lowest).topk(rows.most, dim=2)
        if rows.surplus is None:
            weights = largest.softmax(dim=2)
        else:  # masked twice: of a role that chooses none, softmax would make equal shares
            weights = largest.masked_fill(rows.surplus, lowest).softmax(dim=2).masked_fill(rows.surplus, 0)
        gates = rows.shared.expand_as(scores).scatter_add(2, chosen, weights)
        if self.config.shared_gate:
            gates = torch.where(rows.shared > 0, scores.sigmoid(), gates)
        return gates


class RowTables:
    """The parts of AllRows for a row of each role."""

    def __init__(self, config: MoRConfig, dtype: torch.dtype, device: torch.device):
        owners = [ids[0] for ids in config.groups.values() for _ in ids]  # whose LoRAs each role uses
        ends = [*accumulate(config.loras)]
        self.ends = [ends[owner] for owner in owners]
        self.starts = [ends[owner] - config.loras[owner] for owner in owners]
        self.top_k = [config.active[owner] - 1 for owner in owners]
        self.shared = torch.zeros(3, sum(config.loras), dtype=dtype, device=device)
        self.barred = torch.ones(3, sum(config.loras), dtype=torch.bool, device=device)
        self.surplus = torch.ones(3, max(self.top_k), dtype=torch.bool, device=device)
        for role, start in enumerate(self.starts):
            self.shared[role, start] = 1
            self.barred[role, start + 1 : self.ends[role]] = False
            self.surplus[role, : self.top_k[role]] = False

    def arrange(self, role_ids: Tensor) -> AllRows:
        """In the place of mor.sort_by_role: role_ids int64 [T]; no row changes its place."""
        sizes = role_ids.bincount(minlength=len(ROLES)).tolist()
        present = [role for role, size in enumerate(sizes) if size]
        top_k = [self.top_k[role] for role in present]
        most = max(top_k)
        return AllRows(
            sizes=sizes,
            loras=slice(self.starts[present[0]], self.ends[present[-1]]),
            most=most,
            shared=self.shared[role_ids, None],
            barred=self.barred[role_ids, None],
            surplus=self.surplus[role_ids, None, :most] if min(top_k) < most else None,
        )
