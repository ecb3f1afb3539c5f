"""DoRA (Liu et al. 2024, arXiv 2402.09353), a rival of the paper's method in its Table 6; its one equation.

    y = m * (W0 + s B A) x / n + bias        n: the L2 norm of each row of W0 + s B A

m [out], one length for each output row, is trained beside A and B and starts at the norms of W0, so that the
start equals the base. n is computed again in every forward and is a constant for the gradient (section 4.3
there). What is divided and multiplied is mor.MoRLinear's output with one LoRA for all roles, in any of its
forms. engine/inference.py puts m / n into W0 and B.
"""

import torch
from torch import Tensor, nn

from engine.sharding import whole
from mor import MoRConfig, MoRLinear, RoleRows


def layer_class(config: MoRConfig) -> type[MoRLinear]:
    """What mor.add_mor and mor.replace_linears make of the linears."""
    return DoRALinear if config.dora else MoRLinear


class DoRALinear(MoRLinear):
    """A frozen linear with one LoRA and m, `magnitude`; m is zero until reset_parameters or load_adapter."""

    def __init__(self, base: nn.Linear, config: MoRConfig):
        super().__init__(base, config)
        self.magnitude = self._parameter(base.out_features)
        self.register_buffer("base_squares", None, persistent=False)  # of the norms of W0, which is frozen

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator, init: str = "lora") -> None:
        super().reset_parameters(generator, init)
        if not self.magnitude.is_meta:
            self.magnitude.copy_(self.norms())

    def forward(self, x: Tensor, roles: RoleRows | None = None) -> Tensor:
        """As MoRLinear's. The bias is no part of what is scaled."""
        h = self.add_delta(x, None, roles)
        y = h * self.ratio()  # in float32, and rounded once
        if self.base.bias is not None:
            y = y + self.base.bias
        return y.to(x.dtype)

    def ratio(self) -> Tensor:
        """m / n, [out]."""
        return self.magnitude / self.norms()

    @torch.no_grad()
    def norms(self) -> Tensor:
        """n, [out], without the matrix whose rows they are of:

        ||w + s b A||^2 = ||w||^2 + 2 s (w A^T) . b + s^2 b (A A^T) b^T for a row w of W0 and b of B
        """
        A, B = self.lora_A["reasoner"][0], self.lora_B["reasoner"][0]  # [rank, in], [rank, out]
        weight, s = whole(self.base.weight), self.config.scale
        if self.base_squares is None:
            self.base_squares = weight.to(A.dtype).square().sum(dim=1)
        cross = (A.to(weight.dtype) @ weight.T).to(A.dtype)  # [rank, out]
        squares = self.base_squares + 2 * s * (cross * B).sum(dim=0) + s**2 * (A @ A.T @ B * B).sum(dim=0)
        return squares.clamp_min(torch.finfo(A.dtype).tiny).sqrt()  # a row of zeros stays one
