"""loss.HeadCrossEntropy against the plain head and cross-entropy, with all logits at once."""

import pytest
import torch
import torch.nn.functional as F

from engine import loss
from engine.loss import HeadCrossEntropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_equals_the_plain_head(rows, dtype, monkeypatch):
    monkeypatch.setattr(loss, "LOGIT_ROWS", rows)
    torch.manual_seed(0)
    states = torch.randn(7, 12, dtype=dtype, requires_grad=True)
    head, wanted, weights = torch.randn(50, 12, dtype=dtype), torch.randint(50, (7,)), torch.rand(7)
    logits = (states @ head.T).float()
    wanted[::2] = logits[::2].argmax(dim=1)  # hits
    plain = F.cross_entropy(logits, wanted, reduction="none")
    losses, hits = HeadCrossEntropy.apply(states, head, wanted)
    torch.testing.assert_close(losses, plain)
    assert torch.equal(hits.bool(), logits.argmax(dim=1) == wanted) and not hits.requires_grad
    got, want = (torch.autograd.grad(x @ weights, states)[0] for x in (losses, plain))
    assert got.dtype == dtype
    torch.testing.assert_close(got, want, **(dict(rtol=0.03, atol=0.03) if dtype == torch.bfloat16 else {}))


def test_without_gradients_nothing_is_kept_for_backward():
    states, head, wanted = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 1, 4, 4])
    losses, _ = HeadCrossEntropy.apply(states, head, wanted)
    assert losses.grad_fn is None
    torch.testing.assert_close(losses, F.cross_entropy(states @ head.T, wanted, reduction="none"))


def test_a_trained_head_and_no_rows():
    states, head, wanted = (
        torch.randn(4, 3),
        torch.randn(5, 3, requires_grad=True),
        torch.tensor([0, 1, 4, 4]),
    )
    with pytest.raises(AssertionError, match="frozen"):
        HeadCrossEntropy.apply(states.requires_grad_(), head, wanted)[0].sum().backward()
    losses, _ = HeadCrossEntropy.apply(states[:0], head.detach(), wanted[:0])
    losses.sum().backward()
    assert losses.shape == (0,) and not states.grad.any()


@pytest.mark.parametrize("rows", [1, 4])
def test_no_tensor_of_all_logits_exists(rows, monkeypatch):
    """The largest tensor that forward makes has LOGIT_ROWS rows of the vocabulary."""
    monkeypatch.setattr(loss, "LOGIT_ROWS", rows)
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            largest = max(largest, made.numel() if isinstance(made, torch.Tensor) else 0)
            return made

    states = torch.randn(16, 4, requires_grad=True)
    with Sizes():
        HeadCrossEntropy.apply(states, torch.randn(100, 4), torch.randint(100, (16,)))[0].sum().backward()
    assert largest <= max(rows * 100, 400)
