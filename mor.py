"""Mixture-of-Roles: section 3.2 of the MoRAgent paper (ICML 2025), Eqs. 5 to 7 and 10 to 13.

One adapted linear layer with the paper's 5 + 5 + 4 LoRAs. The rows of x, one per token, are grouped by role:

    x  [ reasoner rows | executor rows | summarizer rows ]
    |          |               |                |          role-aware gate: a rule without parameters;
    W0     5 LoRAs         5 LoRAs          4 LoRAs        a row meets the LoRAs of its own role only (Eq. 6)
    |          |               |                |
    h0 -------(+)-------------(+)--------------(+)---> h   output = base output + delta (Eq. 5)

The LoRAs of one role, seen by one row (Eq. 7); number 0 is shared, 1 to E are routed:

    x -+-> A[0] --> * 1         --> B[0] -+
       +-> A[1] --> * weight[1] --> B[1] -+-> delta
       +-> ...                            |
       +-> A[E] --> * weight[E] --> B[E] -+
       +-> router -> softmax -> keep the K largest, rescaled to sum 1; the others are 0 -> weight[1..E]

Paper           Here                 Meaning
u               x                    input of a linear, [T, in]
W0, h0          base, base(x)        the frozen linear and its output, [T, out]
A, B            lora_A, lora_B       as in LoRA: A goes in -> rank, B goes rank -> out and starts at zero.
                                     (The shapes printed in the paper swap the two.) Stored [loras, rank, in]
                                     and [loras, rank, out]: lora_B[i] is B_i transposed
d1, d2, d3      in, out, rank
r, e, s         ROLES                reasoner, executor, summarizer: role ids 0, 1, 2
E               routed = loras - 1   LoRAs the router chooses from
Top-K           top_k = active - 1   LoRAs it chooses per token; `active` counts the shared one too
R, W_R          route, router        token-aware router, one per linear and role, [routed, in]
f, P            f, P                 share of a role's tokens sent to each LoRA; mean router probability
L_aux, L_orth   balance_loss, orthogonal_loss

Equations: 5 to 7 MoRFunction; 10 balance_loss; 11, 12 load_statistics; 13 orthogonal_loss. To generate,
inference.py has 5 to 7 once more, with fewer operations.
Letters in shapes: T tokens, n tokens of one role, E routed LoRAs, K top_k, N adapted linears.
Not here: which role a token has (data.py), Eqs. 8 and 9 (train.py), Eqs. 2 to 4 (agent.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cli import UserError

ROLES = ("reasoner", "executor", "summarizer")
TARGETS = tuple("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj qkv_proj gate_up_proj".split())


@dataclass
class MoRConfig:
    """What is saved with an adapter; threes are per role. Raises UserError with all faults in one line."""

    rank: int = 16
    loras: tuple[int, int, int] = (5, 5, 4)  # in total, the shared one included
    active: tuple[int, int, int] = (4, 4, 3)  # per token, the shared one included
    targets: tuple[str, ...] = TARGETS  # last parts of names; the default stands for those of it a model has
    shared_gate: bool = False  # paper silent: the released code gates the shared LoRA, Eq. 7 does not
    orthogonal: str = "directions"  # or "printed": two readings of Eq. 13, see orthogonal_loss

    def __post_init__(self) -> None:
        for name in ("loras", "active", "targets"):
            if isinstance(getattr(self, name), list):  # JSON has no tuples
                setattr(self, name, tuple(getattr(self, name)))
        faults = []

        def check(name: str, good: bool, wanted: str) -> None:
            if not good:
                faults.append(f"{name} is {getattr(self, name)!r}, wanted {wanted}")

        check("rank", type(self.rank) is int and self.rank >= 1, "a whole number from 1")
        check("loras", _three(self.loras, 2), "three whole numbers from 2: one shared, the others routed")
        most = self.loras if _three(self.loras, 2) else (math.inf,) * 3
        fits = _three(self.active, 1) and all(n <= top for n, top in zip(self.active, most, strict=True))
        check("active", fits, "three whole numbers from 1 (the shared LoRA alone) to loras (all)")
        named = isinstance(self.targets, tuple) and self.targets and all(map(_is_target, self.targets))
        check("targets", named, "names of linears in the blocks without dots, such as q_proj")
        check("shared_gate", type(self.shared_gate) is bool, "true or false")
        check("orthogonal", self.orthogonal in ("directions", "printed"), "directions or printed")
        if faults:
            raise UserError("; ".join(faults))


def _three(value: object, low: int) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(type(n) is int and n >= low for n in value)


def _is_target(name: object) -> bool:
    """lm_head is none: its rows are in sequence order, not grouped by role."""
    return isinstance(name, str) and name.isidentifier() and name != "lm_head"


# ------------------------------------------------------------------------------------- one layer, Eqs. 5 to 7


def route(scores: Tensor, top_k: int, shared_gate: bool) -> tuple[Tensor, Tensor]:
    """R of one role: scores [n, E] -> gates [n, 1 + E] of all LoRAs, chosen [n, K] out of E.

    A softmax over the K largest scores: the same as one over all, of which the K largest are kept and, as in
    the released code (the paper is silent), rescaled to sum 1. With shared_gate one more score comes first
    and makes the shared LoRA's gate, otherwise that is 1.
    """
    shared, routed = scores.tensor_split([int(shared_gate)], dim=1)
    largest, chosen = routed.topk(top_k, dim=1)
    gates = torch.zeros_like(routed).scatter_(1, chosen, largest.softmax(dim=1))
    return torch.cat([shared.sigmoid(), gates], dim=1) if shared_gate else F.pad(
        gates, (1, 0), value=1.0
    ), chosen


def route_backward(pull: Tensor, d_P: Tensor, gates: Tensor, probs: Tensor, shared_gate: bool) -> Tensor:
    """Gradient of the scores, [n, E], from gates times their gradients, pull [n, 1 + E], and that of P, [E].

    For p = softmax(s), ds = p dp - p sum(p dp); and the K largest, rescaled, are a softmax over their scores.
    """
    weights, weights_pull, probs_pull = gates[:, 1:], pull[:, 1:], probs * (d_P / max(len(probs), 1))
    d_scores = weights_pull - weights * weights_pull.sum(dim=1, keepdim=True)
    d_scores += probs_pull - probs * probs_pull.sum(dim=1, keepdim=True)
    return torch.cat([pull[:, :1] * (1 - gates[:, :1]), d_scores], dim=1) if shared_gate else d_scores


def load_statistics(probs: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """f [E] and P [E] over one role's tokens; zeros when it has none. f is a constant, P has a gradient."""
    tokens = max(len(probs), 1)
    f = torch.zeros_like(probs).scatter(1, chosen, 1.0).sum(dim=0) / tokens  # Eq. 11
    P = probs.sum(dim=0) / tokens  # Eq. 12
    return f, P


class MoRFunction(torch.autograd.Function):
    """Eqs. 5 to 7, 11 and 12 of one linear, forward and backward written out.

    What that gains over autograd: a role's rows are a slice, so that the base matmul, which comes last, adds
    to its LoRAs in place, forward and backward; all A of a role and its router are one matrix (`_down`), so
    that x is read once for them; and beyond x only tensors of loras * rank columns are kept for backward.
    Matmuls run in x's dtype; gates, probabilities and parameters' gradients have the parameters', fp32.

    Takes x [T, in]; weight [out, in] and bias of the base; rows and active LoRAs of each role; shared_gate;
    A [loras, rank, in], B [loras, rank, out] and router [E, in] of each role. Returns h [T, out] and, of all
    roles end to end, f and P [sum of E].
    """

    @staticmethod
    def forward(ctx, x, weight, bias, role_sizes, active, shared_gate, *parameters):
        h, saved, statistics = x.new_empty(len(x), len(weight)), [], []
        rows = zip(x.split(role_sizes), h.split(role_sizes), strict=True)  # Eq. 6
        for (u, delta), n_active, (A, B, router) in zip(rows, active, _threes(parameters), strict=True):
            z, scores = (u @ _down(A, router, x.dtype).T).tensor_split([B.shape[0] * B.shape[1]], dim=1)
            scores = scores.to(router.dtype)
            gates, chosen = route(scores, n_active - 1, shared_gate)
            probs = scores[:, int(shared_gate) :].softmax(dim=1)
            z = _scale_(z, gates)
            delta.addmm_(z, B.flatten(0, 1).to(x.dtype), beta=0)  # Eq. 7
            saved += [z, gates, probs]
            statistics.append(load_statistics(probs, chosen))
        h = (h if bias is None else h.add_(bias)).addmm_(x, weight.T)  # Eq. 5
        f, P = (torch.cat(column) for column in zip(*statistics, strict=True))
        ctx.mark_non_differentiable(f)
        ctx.save_for_backward(x, weight, *parameters, *saved)
        ctx.role_sizes, ctx.shared_gate = role_sizes, shared_gate
        return h, f, P

    @staticmethod
    @once_differentiable
    def backward(ctx, d_h, _, d_P):
        x, weight, *saved = ctx.saved_tensors
        parameters, saved = _threes(saved[:9]), _threes(saved[9:])
        d_x, d_parameters = torch.empty_like(x), []
        rows = zip(*(tensor.split(ctx.role_sizes) for tensor in (x, d_x, d_h)), strict=True)
        d_P = d_P.split([probs.shape[1] for _, _, probs in saved])
        for (u, d_u, d_delta), (A, B, router), (z, gates, probs), d_P_role in zip(
            rows, parameters, saved, d_P, strict=True
        ):
            down = _down(A, router, x.dtype)
            d_B = z.T @ d_delta
            d_down = d_delta.new_empty(len(u), len(down))
            d_z, d_scores = d_down.tensor_split([len(d_B)], dim=1)
            d_z.addmm_(d_delta, B.flatten(0, 1).to(x.dtype).T, beta=0)
            pull = (d_z * z).unflatten(1, A.shape[:2]).sum(dim=2).to(gates.dtype)
            d_scores.copy_(route_backward(pull, d_P_role, gates, probs, ctx.shared_gate))
            _scale_(d_z, gates)
            if ctx.needs_input_grad[0]:
                d_u.addmm_(d_down, down, beta=0)
            d_A, d_router = (d_down.T @ u).tensor_split([len(d_B)])
            gradients = zip((d_A, d_B, d_router), (A, B, router), strict=True)
            d_parameters += [gradient.view_as(p).to(p.dtype) for gradient, p in gradients]
        d_x = d_x.addmm_(d_h, weight) if ctx.needs_input_grad[0] else None  # none below the first adapter
        return d_x, None, None, None, None, None, *d_parameters


def _scale_(z: Tensor, gates: Tensor) -> Tensor:
    """z [n, loras * rank], in place: the columns of LoRA i times gates[:, i]."""
    z.unflatten(1, (gates.shape[1], -1)).mul_(gates.unsqueeze(2))
    return z


def _threes(tensors: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    return [tensors[i : i + 3] for i in range(0, len(tensors), 3)]


def _down(A: Tensor, router: Tensor, dtype: torch.dtype) -> Tensor:
    """All A of a role, then its router: [loras * rank + routed, in]."""
    return torch.cat([A.flatten(0, 1), router]).to(dtype)


class MoRLinear(nn.Module):
    """A frozen linear with the LoRAs of three roles; zeros until reset_parameters or load_adapter.

    A forward in training mode leaves f and P of all roles in `statistics`, for balance_loss. Activation
    checkpointing (non-reentrant) runs it again inside backward: that would overwrite them with the same
    values, but on a graph that keeps what was recomputed alive, so there they are left as they are.
    """

    def __init__(self, base: nn.Linear, config: MoRConfig):
        super().__init__()
        self.base, self.config = base.requires_grad_(False), config
        self.lora_A, self.lora_B, self.router = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self.statistics: tuple[Tensor, Tensor] | None = None
        for role, loras in zip(ROLES, config.loras, strict=True):
            self.lora_A[role] = self._parameter(loras, config.rank, base.in_features)
            self.lora_B[role] = self._parameter(loras, config.rank, base.out_features)
            self.router[role] = self._parameter(loras - 1 + config.shared_gate, base.in_features)

    def _parameter(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.zeros(shape, dtype=torch.float32, device=self.base.weight.device))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """A and router uniform within 1/sqrt(in), kaiming_uniform(a=sqrt 5) for each LoRA; B stays zero.

        (nn.init would take rank * in for the fan-in of a stack.) Drawn on the CPU: the same on every device.
        """
        bound = 1 / math.sqrt(self.base.in_features)
        for role in ROLES:
            for weight in (self.lora_A[role], self.router[role]):
                if not weight.is_meta:
                    weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))

    def forward(self, x: Tensor, role_sizes: list[int] | None = None) -> Tensor:
        """x [T, in], first role_sizes[0] rows of role 0, then those of 1 and 2 -> [T, out] in x's dtype."""
        if role_sizes is None:
            raise UserError("role_ids are missing; an adapted model wants the role 0, 1 or 2 of each token")
        parameters = [p[role] for role in ROLES for p in (self.lora_A, self.lora_B, self.router)]
        settings = role_sizes, self.config.active, self.config.shared_gate
        h, f, P = MoRFunction.apply(x, self.base.weight, self.base.bias, *settings, *parameters)
        if self.training and not _in_backward():
            self.statistics = f, P
        return h


def _in_backward() -> bool:
    """Whether a checkpointed block runs for the second time; torch.utils.checkpoint asks the same way."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


# -------------------------------------------------------------------------------------- losses, Eqs. 10 to 13


def balance_loss(model: nn.Module) -> Tensor:
    """Sum over roles and adapted linears, of the last forward in training mode.

    Each adds top_k when its load is even, and 0 when the role has no token.
    Paper silent: the statistics are over one micro-batch, and over tokens that are trained or not.
    """
    layers = mor_layers(model)
    assert all(layer.statistics for layer in layers), "balance_loss needs a forward in training mode"
    f, P = (torch.stack(column) for column in zip(*(layer.statistics for layer in layers), strict=True))
    assert P.requires_grad or not torch.is_grad_enabled(), "no gradient: a reentrant checkpoint?"
    E = torch.tensor([loras - 1 for loras in layers[0].config.loras for _ in range(loras - 1)])
    return (E.to(P) * f * P).sum()  # Eq. 10; f, P [N, sum of E]


def router_load(model: nn.Module) -> dict[str, Tensor]:
    """Per role, f of the last forward in training mode, mean over linears: [E], sums to top_k (or to 0)."""
    layers = mor_layers(model)
    f = torch.stack([layer.statistics[0] for layer in layers]).mean(dim=0)
    return dict(zip(ROLES, f.split([loras - 1 for loras in layers[0].config.loras]), strict=True))


def orthogonal_loss(model: nn.Module, config: MoRConfig | None = None) -> Tensor:
    """Sum over pairs i < j of a role's routed LoRAs, over roles and adapted linears. It depends on no token.

    With A_i [rank, in], B_i [out, rank], a pair adds ||B_i^T B_j||^2 and, by config.orthogonal, either
    "directions"  ||A_i A_j^T||^2: zero when the rows of A_i are orthogonal to those of A_j, as the text asks;
    "printed"     ||A_i^T A_j||^2, a product of shape [in, in]. It equals the inner product of A_i A_i^T and
                  A_j A_j^T, so it shrinks A without ever separating directions.
    """
    layers, total = mor_layers(model), 0.0
    printed = (config or layers[0].config).orthogonal == "printed"
    for role in ROLES:
        A = torch.stack([_gram(layer.lora_A[role][1:]) for layer in layers])  # [N, E, rank, E, rank]
        B = torch.stack([_gram(layer.lora_B[role][1:]) for layer in layers])
        pairs = (_inner(A) if printed else _cross(A)) + _cross(B)  # [N, E, E]
        total = total + pairs.triu(diagonal=1).sum()  # Eq. 13
    return total


def _gram(weight: Tensor) -> Tensor:
    """[E, rank, d] -> [E, rank, E, rank], whose block (i, j) is weight[i] @ weight[j].T."""
    rows = weight.flatten(0, 1)
    return (rows @ rows.T).view(weight.shape[:2] + weight.shape[:2])


def _cross(gram: Tensor) -> Tensor:
    """Squared norms of the blocks (i, j): [N, E, E]."""
    return gram.square().sum(dim=(2, 4))


def _inner(gram: Tensor) -> Tensor:
    """Inner products of the blocks (i, i) and (j, j): [N, E, E]."""
    own = gram.diagonal(dim1=1, dim2=3).flatten(1, 2)  # [N, rank * rank, E]
    return own.mT @ own


# ------------------------------------------------------------------------------------ into and out of a model


def add_mor(model: nn.Module, config: MoRConfig, seed: int = 0) -> int:
    """Freeze the model and make its targeted linears MoRLinears; return their number.

    The initial values follow from the seed alone: one generator, linears in the order of their names.
    Raises UserError as replace_linears does.
    """
    layers = replace_linears(model, config)
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        layer.reset_parameters(generator)
    return len(layers)


def replace_linears(model: nn.Module, config: MoRConfig) -> list[MoRLinear]:
    """The new layers in the order of their names, LoRAs and routers all zero.

    Raises UserError when nothing matches, or when targets other than the default name an absent linear.
    """
    found = {name: module for name, module in sorted(model.named_modules()) if isinstance(module, nn.Linear)}
    present = {name.rpartition(".")[2] for name in found}
    missing = [target for target in config.targets if target not in present]
    if len(missing) == len(config.targets) or (missing and config.targets != TARGETS):
        known = ", ".join(sorted(present - {"base"})) or "none"
        raise UserError(f"targets: no linear named {', '.join(missing)}; this model has {known}")
    model.requires_grad_(False)
    layers = []
    for name, module in found.items():
        parent, _, last = name.rpartition(".")
        if last in config.targets:
            layers.append(MoRLinear(module, config).train(module.training))
            setattr(model.get_submodule(parent), last, layers[-1])
    return layers


def mor_layers(model: nn.Module) -> list[MoRLinear]:
    layers = [module for module in model.modules() if isinstance(module, MoRLinear)]
    assert layers, "the model has no MoR layers; call add_mor first"
    return layers


def mor_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All trained parameters, sorted by the names they have in adapter_model.safetensors."""
    kinds = {"lora_A", "lora_B", "router"}
    return {name: p for name, p in sorted(model.named_parameters()) if kinds & set(name.split("."))}


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trained, frozen); a tensor used twice, as tied embeddings are, counts once."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in model.parameters()) - trained
