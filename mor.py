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
                groups               roles that have LoRAs of their own. Of the paper all three; with 1 LoRA a
                                     role has no router, with 0 it uses those of the role before it
R, W_R          route, router        token-aware router, one per linear and role, [routed, in]
f, P            f, P                 share of a role's tokens sent to each LoRA; mean router probability
L_aux, L_orth   balance_loss, orthogonal_loss

Equations: 5 to 7 mor_layer; 10 balance_loss; 11, 12 load_statistics; 13 orthogonal_loss. mor_layer is the
text to hold against the paper, and what a MoRLinear runs unless told otherwise. engine/fused.py has the same
with a backward written out, for training, engine/inference.py with fewer operations, to generate.
Letters in shapes: T tokens, n tokens of one role, E routed LoRAs, K top_k, N adapted linears.
Not here: which role a token has (data.py), Eqs. 8 and 9 (train.py), Eqs. 2 to 4 (agent.py), adapter files
(engine/adapter.py). Plain LoRA is a setting of what is here: one LoRA for all roles, 1,0,0.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cli import UserError

ROLES = ("reasoner", "executor", "summarizer")
TARGETS = tuple("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj qkv_proj gate_up_proj".split())


@dataclass
class MoRConfig:
    """What is saved with an adapter; threes are per role. Raises UserError with all faults in one line."""

    rank: int = 16
    loras: tuple[int, int, int] = (5, 5, 4)  # in total, the shared one included; 0: those of the role before
    active: tuple[int, int, int] = (4, 4, 3)  # per token, the shared one included
    targets: tuple[str, ...] = TARGETS  # last parts of names; the default stands for those of it a model has
    shared_gate: bool = False  # paper silent: the released code gates the shared LoRA, Eq. 7 does not
    scale: float = 1.0  # of delta in Eq. 5; LoRA has alpha / rank, the paper nothing
    dora: bool = False  # a rival: see engine/dora.py
    orthogonal: str = "directions"  # or "printed": two readings of Eq. 13, see overlap
    frame: str = ""  # how turns are marked, see formats/frames.py; "": the base model's own
    prompts: str = "short"  # or "paper": what the roles are told, see formats/prompts.py

    def __post_init__(self) -> None:
        for name in ("loras", "active", "targets"):
            if isinstance(getattr(self, name), list):  # JSON has no tuples
                setattr(self, name, tuple(getattr(self, name)))
        faults = []

        def check(name: str, good: bool, wanted: str) -> None:
            if not good:
                faults.append(f"{name} is {getattr(self, name)!r}, wanted {wanted}")

        check("rank", type(self.rank) is int and self.rank >= 1, "a whole number from 1")
        loras_fit, active_fit = _three(self.loras) and self.loras[0] > 0, _three(self.active)
        if loras_fit and active_fit:
            least = [min(loras, 1) for loras in self.loras]
            active_fit = all(least[i] <= n <= self.loras[i] for i, n in enumerate(self.active))
        check("loras", loras_fit, "three whole numbers, the first from 1 (0: the LoRAs of the role before)")
        check("active", active_fit, "three whole numbers from 1 (the shared LoRA) to loras, 0 where that is")
        targets_fit = isinstance(self.targets, tuple) and self.targets and all(map(_is_target, self.targets))
        check("targets", targets_fit, "names of linears in the blocks without dots, such as q_proj")
        check("shared_gate", type(self.shared_gate) is bool, "true or false")
        scale_fits = type(self.scale) in (int, float) and 0 < self.scale < math.inf
        check("scale", scale_fits, "a number above 0")
        dora_fits = self.dora is False or (self.loras == (1, 0, 0) and not self.shared_gate)
        check("dora", type(self.dora) is bool and dora_fits, "false, or true with loras 1,0,0 and no gate")
        check("orthogonal", self.orthogonal in ("directions", "printed"), "directions or printed")
        check("frame", isinstance(self.frame, str), "a name")
        check("prompts", self.prompts in ("short", "paper"), "short or paper")
        if faults:
            raise UserError("; ".join(faults))

    @property
    def groups(self) -> dict[str, list[int]]:
        """Each role with LoRAs of its own -> the role ids that use them: its own, then those without."""
        found = {}
        for role, name in enumerate(ROLES):
            if self.loras[role]:
                found[name] = group = []
            group.append(role)
        return found


def _three(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(type(n) is int and n >= 0 for n in value)


def _is_target(name: object) -> bool:
    """lm_head is none: its rows are in sequence order, not grouped by role."""
    return isinstance(name, str) and name.isidentifier() and name != "lm_head"


# ------------------------------------------------------------------------------------- one layer, Eqs. 5 to 7


def mor_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    role_sizes: list[int],
    active: list[int],
    shared_gate: bool,
    scale: float,
    *parameters: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One adapted linear: Eqs. 5 to 7, and the statistics of Eqs. 11 and 12.

    x [T, in], its rows grouped by role; weight [out, in] and bias [out] of the frozen linear; role_sizes: the
    number of rows of each role; active: LoRAs per token of each role, the shared one included. parameters:
    lora_A [1 + E, rank, in], lora_B [1 + E, rank, out] and router [E, in] of the first role, then of the next
    (with shared_gate a router has one row more, the first). A role without LoRAs counts as part of the one
    before it. Returns h [T, out] and, of all roles end to end, f and P [sum of E]. Products are made in x's
    dtype; routing is in the router's, float32.
    """
    deltas, all_f, all_P = [], [], []
    for role, u in enumerate(x.split(role_sizes)):  # Eq. 6: a row meets the LoRAs of its own role only
        A, B, router = parameters[3 * role : 3 * role + 3]
        A, B = A.to(u.dtype), B.to(u.dtype)
        scores = (u @ router.to(u.dtype).T).to(router.dtype)
        gates, probs, chosen = route(scores, active[role] - 1, shared_gate)
        gates = gates.to(u.dtype)

        delta = gates[:, :1] * (u @ A[0].T @ B[0])  # Eq. 7: the shared LoRA
        for i in range(1, len(A)):
            delta = delta + gates[:, i : i + 1] * (u @ A[i].T @ B[i])  # and the routed ones; most gates are 0
        deltas.append(delta)

        f, P = load_statistics(probs, chosen)
        all_f.append(f)
        all_P.append(P)
    h = F.linear(x, weight, bias) + scale * torch.cat(deltas)  # Eq. 5: h = h0 + delta
    return h, torch.cat(all_f), torch.cat(all_P)


def route(scores: Tensor, top_k: int, shared_gate: bool) -> tuple[Tensor, Tensor, Tensor]:
    """R of one role: scores [n, E] -> gates [n, 1 + E] of all LoRAs, probs [n, E], chosen [n, K] out of E.

    Paper silent: the K largest probabilities are rescaled to sum 1, as in the released code. With shared_gate
    the scores have one more column, the first, whose sigmoid is the shared LoRA's gate; otherwise that is 1.
    """
    if shared_gate:
        shared, scores = scores[:, :1].sigmoid(), scores[:, 1:]
    else:
        shared = scores.new_ones(len(scores), 1)
    probs = scores.softmax(dim=1)  # R(u) = softmax(u W_R)
    largest, chosen = probs.topk(top_k, dim=1)
    weights = largest / largest.sum(dim=1, keepdim=True)
    routed = torch.zeros_like(probs).scatter(1, chosen, weights)
    return torch.cat([shared, routed], dim=1), probs, chosen


def load_statistics(probs: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """f [E] and P [E] over one role's tokens; zeros when it has none. f is a constant, P has a gradient."""
    tokens = max(len(probs), 1)
    f = torch.zeros_like(probs).scatter(1, chosen, 1.0).sum(dim=0) / tokens  # Eq. 11
    P = probs.sum(dim=0) / tokens  # Eq. 12
    return f, P


@dataclass
class RoleRows:
    """How the rows of a forward pass are grouped by role; every linear is told. See sort_by_role."""

    sizes: list[int]  # how many rows role 0 has, which come first, then role 1, then role 2
    order: Tensor | None = None  # [T] which token stands in each row; None: rows are in sequence order
    inverse: Tensor | None = None  # [T] in which row each token stands

    def of_groups(self, groups: dict[str, list[int]]) -> list[int]:
        """Rows of each group of roles, which MoRConfig.groups gives by the roles' numbers."""
        return [sum(self.sizes[role] for role in ids) for ids in groups.values()]


def sort_by_role(role_ids: Tensor) -> RoleRows:
    """The role-aware gate of Eq. 6 as an order of rows: int64 [T], 0, 1 or 2 -> rows grouped by role."""
    sizes = torch.bincount(role_ids, minlength=len(ROLES)).tolist()
    if max(sizes) == len(role_ids):  # a single role: tokens stay where they are
        return RoleRows(sizes)
    order = torch.argsort(role_ids, stable=True)
    return RoleRows(sizes, order, torch.argsort(order))


class MoRLinear(nn.Module):
    """A frozen linear with the LoRAs of three roles; zeros until reset_parameters or load_adapter.

    A forward in training mode leaves f and P of all roles in `statistics`, for balance_loss. Activation
    checkpointing (non-reentrant) runs it again inside backward: that would overwrite them with the same
    values, but on a graph that keeps what was recomputed alive, so there they are left as they are.
    """

    def __init__(self, base: nn.Linear, config: MoRConfig):
        super().__init__()
        self.base, self.config, self.groups = base.requires_grad_(False), config, config.groups
        self.lora_A, self.lora_B, self.router = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self.statistics: tuple[Tensor, Tensor] | None = None
        self.function = mor_layer  # or another form of it, as engine/fused.py has
        for role, ids in self.groups.items():
            loras = config.loras[ids[0]]
            self.lora_A[role] = self._parameter(loras, config.rank, base.in_features)
            self.lora_B[role] = self._parameter(loras, config.rank, base.out_features)
            self.router[role] = self._parameter(loras - 1 + config.shared_gate, base.in_features)

    def _parameter(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.zeros(shape, dtype=torch.float32, device=self.base.weight.device))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator, init: str = "lora") -> None:
        """A and router uniform within 1/sqrt(in), kaiming_uniform(a=sqrt 5) for each LoRA; B stays zero.

        init "released": A within 1/sqrt(rank * in), as in the released code, whose nn.init takes a stack of
        LoRAs for one matrix. Drawn on the CPU: the same on every device.
        """
        bound = 1 / math.sqrt(self.base.in_features)
        bound_A = bound / math.sqrt(self.config.rank) if init == "released" else bound
        for role in self.groups:
            for weight, most in ((self.lora_A[role], bound_A), (self.router[role], bound)):
                if not weight.is_meta:
                    weight.copy_(torch.empty(weight.shape).uniform_(-most, most, generator=generator))

    def forward(self, x: Tensor, roles: RoleRows | None = None) -> Tensor:
        """x [T, in], its rows grouped as `roles` says -> [T, out] in x's dtype. Raises UserError without."""
        return self.add_delta(x, self.base.bias, roles)

    def add_delta(self, x: Tensor, bias: Tensor | None, roles: RoleRows | None) -> Tensor:
        """forward, with the bias that is given."""
        if roles is None:
            raise UserError("role_ids are missing; an adapted model wants the role 0, 1 or 2 of each token")
        config, groups = self.config, self.groups
        active = [config.active[ids[0]] for ids in groups.values()]
        parameters = [kind[role] for role in groups for kind in (self.lora_A, self.lora_B, self.router)]
        settings = roles.of_groups(groups), active, config.shared_gate, config.scale
        h, f, P = self.function(x, self.base.weight, bias, *settings, *parameters)
        if self.training and not _in_backward():
            self.statistics = f, P
        return h


def _in_backward() -> bool:
    """Whether a checkpointed block runs for the second time; torch.utils.checkpoint asks the same way."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


# -------------------------------------------------------------------------------------- losses, Eqs. 10 to 13


def balance_loss(model: nn.Module, over_linears: str = "sum") -> Tensor:
    """Sum over roles, and sum or mean over adapted linears, of the last forward in training mode.

    A linear adds top_k of each role when its load is even, and 0 for a role without a token.
    Paper silent: whether linears are added up, as Switch Transformers adds its layers, or averaged; and the
    statistics are over one micro-batch, its tokens trained or not.
    """
    layers = mor_layers(model)
    assert all(layer.statistics for layer in layers), "balance_loss needs a forward in training mode"
    f = torch.stack([layer.statistics[0] for layer in layers])  # [N, sum of E]
    P = torch.stack([layer.statistics[1] for layer in layers])
    assert P.requires_grad or not torch.is_grad_enabled(), "no gradient: a reentrant checkpoint?"
    routed = (torch.tensor(layers[0].config.loras) - 1).clamp(min=0)
    E = routed.repeat_interleave(routed).to(P)  # [sum of E]: of each LoRA, how many its role has
    total = (E * f * P).sum()  # Eq. 10
    return total / len(layers) if over_linears == "mean" else total


def router_load(model: nn.Module) -> dict[str, Tensor]:
    """Per router, f of the last forward in training mode, mean over linears: [E], sums to top_k (or to 0)."""
    layers = mor_layers(model)
    f = torch.stack([layer.statistics[0] for layer in layers]).mean(dim=0)
    routed = routed_loras(layers[0].config)
    return dict(zip(routed, f.split(list(routed.values())), strict=True))


def routed_loras(config: MoRConfig) -> dict[str, int]:
    """E of each role that has a router."""
    return {role: loras - 1 for role, loras in zip(ROLES, config.loras, strict=True) if loras > 1}


def orthogonal_loss(model: nn.Module, config: MoRConfig | None = None) -> Tensor:
    """Eq. 13: sum over pairs i < j of a role's routed LoRAs, over roles and adapted linears; of no token.

    engine/fused.py has the same without products of size [out, out]. config: for another reading of it.
    """
    layers = mor_layers(model)
    reading = (config or layers[0].config).orthogonal
    total = torch.zeros(())
    for layer in layers:
        for role in layer.groups:
            A, B = layer.lora_A[role], layer.lora_B[role]
            for i in range(1, len(A)):
                for j in range(i + 1, len(A)):
                    total = total + overlap(A[i], A[j], B[i], B[j], reading)
    return total


def overlap(A_i: Tensor, A_j: Tensor, B_i: Tensor, B_j: Tensor, reading: str) -> Tensor:
    """One pair of Eq. 13. A_i, A_j [rank, in]; B_i, B_j [rank, out], as they are stored.

    "directions"  both products are [rank, rank]: zero where the rows of one are orthogonal to the other's, as
                  the text asks and as O-LoRA has it
    "printed"     with the shapes that the paper prints, where the factor called B goes down and A goes up:
                  B_i^T B_j is [rank, rank] and A_i^T A_j is [out, out]. For factors of full rank the latter
                  is never zero: it shrinks the up factors instead of separating them
    """
    down = A_i @ A_j.T  # [rank, rank]
    up = B_i @ B_j.T if reading == "directions" else B_i.T @ B_j
    return down.square().sum() + up.square().sum()


# ------------------------------------------------------------------------------------ into and out of a model


def add_mor(
    model: nn.Module,
    config: MoRConfig,
    seed: int = 0,
    init: str = "lora",
    layer_class: type[MoRLinear] = MoRLinear,
) -> int:
    """Freeze the model and make its targeted linears MoRLinears; return their number.

    init: "lora" or "released", see MoRLinear.reset_parameters. layer_class: engine/dora.py has another.

    The initial values follow from the seed alone: one generator, linears in the order of their names.
    Raises UserError as replace_linears does.
    """
    layers = replace_linears(model, config, layer_class)
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        layer.reset_parameters(generator, init)
    return len(layers)


def replace_linears(
    model: nn.Module, config: MoRConfig, layer_class: type[MoRLinear] = MoRLinear
) -> list[MoRLinear]:
    """The new layers in the order of their names, LoRAs and routers all zero.

    Raises UserError when nothing matches, or when targets other than the default name an absent linear.
    """
    assert config.dora == (layer_class is not MoRLinear), "DoRA wants engine.dora.layer_class"
    found = {name: module for name, module in sorted(model.named_modules()) if isinstance(module, nn.Linear)}
    present = {name.rpartition(".")[2] for name in found}
    missing = [target for target in config.targets if target not in present]
    if len(missing) == len(config.targets) or (missing and config.targets != TARGETS):
        known = ", ".join(sorted(filter(_is_target, present - {"base"}))) or "none"
        raise UserError(f"targets: no linear named {', '.join(missing)}; this model has {known}")
    model.requires_grad_(False)
    layers = []
    for name, module in found.items():
        parent, _, last = name.rpartition(".")
        if last in config.targets:
            layers.append(layer_class(module, config).train(module.training))
            setattr(model.get_submodule(parent), last, layers[-1])
    return layers


def mor_layers(model: nn.Module) -> list[MoRLinear]:
    layers = [module for module in model.modules() if isinstance(module, MoRLinear)]
    assert layers, "the model has no MoR layers; call add_mor first"
    return layers


def mor_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All trained parameters, sorted by the names they have in adapter_model.safetensors."""
    kinds = {"lora_A", "lora_B", "router", "magnitude"}
    return {name: p for name, p in sorted(model.named_parameters()) if kinds & set(name.split("."))}


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trained, frozen); a tensor used twice, as tied embeddings are, counts once."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in model.parameters()) - trained
