"""Eq. 9: the cross-entropy of a micro-batch, at supervised positions only.

Agent data supervises about a quarter of its tokens and a vocabulary has 128k to 152k entries: the logits of
all positions would be the largest tensors of a step and the head one of its larger matmuls. So the final norm
and the head see only the positions that predict a supervised token, LOGIT_ROWS at a time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

import data
from data import Example
from model import Transformer
from mor import ROLES

LOGIT_ROWS = 512  # positions whose logits exist at a time: 0.25 GB in fp32 for a vocabulary of 128k


class HeadCrossEntropy(torch.autograd.Function):
    """states [S, hidden], head [vocab, hidden], wanted ids [S] -> sum of losses; losses [S] and hits [S].

    All are float32, or float64 where the states are. The sum alone has a gradient.

    The gradients are made in forward, while the logits of a chunk exist: two matmuls a chunk, and a third
    where the head is trained. To keep the logits for backward takes too much memory, to make them again there
    one more matmul.
    """

    @staticmethod
    def forward(ctx, states: Tensor, head: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(states.dtype, torch.float32)
        losses, hits = states.new_empty(2, len(states), dtype=dtype)
        wants_states, wants_head, _ = ctx.needs_input_grad
        d_states = torch.empty_like(states) if wants_states else None
        d_head = torch.zeros_like(head, dtype=dtype) if wants_head else None
        for start in range(0, len(states), LOGIT_ROWS):
            rows = slice(start, start + LOGIT_ROWS)
            ids = wanted[rows, None]
            log_probs = (states[rows] @ head.T).to(dtype).log_softmax(dim=1)  # [rows, vocab]
            of_wanted = log_probs.gather(1, ids)[:, 0]
            losses[rows] = -of_wanted
            hits[rows] = of_wanted == log_probs.amax(dim=1)  # several times as fast as argmax
            if wants_states or wants_head:
                d_logits = log_probs.exp_().scatter_add_(1, ids, -torch.ones_like(ids, dtype=dtype))
                d_logits = d_logits.to(states.dtype)
            if wants_states:
                d_states[rows] = d_logits @ head
            if wants_head:
                d_head += d_logits.T @ states[rows]
        ctx.mark_non_differentiable(losses, hits)
        ctx.save_for_backward(d_states, d_head)
        ctx.head_dtype = head.dtype
        return losses.sum(), losses, hits

    @staticmethod
    @once_differentiable
    def backward(ctx, d_sum: Tensor, *_) -> tuple[Tensor | None, Tensor | None, None]:
        d_states, d_head = ctx.saved_tensors
        if d_states is not None:
            d_states = d_states * d_sum.to(d_states.dtype)
        if d_head is not None:
            d_head = (d_head * d_sum).to(ctx.head_dtype)
        return d_states, d_head, None


def token_losses(model: Transformer, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """A micro-batch -> summed cross-entropy; per role [3, 4]: cross-entropy, hits, supervised tokens, tokens.

    The role is the predicted token's.
    """
    batch, device = data.collate(examples), model.model.norm.weight.device
    role_ids, labels = batch.role_ids.to(device), data.targets(batch).to(device)  # [T]; targets are shifted
    here = (labels >= 0).nonzero().squeeze(1)  # [S]
    states = model.hidden_states(batch.input_ids.to(device), role_ids, batch.lengths, rows=here)
    nll, losses, hits = HeadCrossEntropy.apply(states, model.lm_head.weight, labels[here])
    return nll, sums_by_role(losses, hits, role_ids, here)


def sums_by_role(losses: Tensor, hits: Tensor, role_ids: Tensor, here: Tensor) -> Tensor:
    """What token_losses returns per role. losses and hits [S] of the positions `here`, role_ids [T]."""
    columns = torch.stack((losses.detach(), hits, torch.ones_like(losses)), dim=1).double()  # [S, 3]
    sums = F.one_hot(role_ids[here + 1], len(ROLES)).double().T @ columns
    return torch.cat((sums, role_ids.bincount(minlength=len(ROLES))[:, None]), dim=1)
