"""loss.HeadCrossEntropy against the plain head and cross-entropy, with all logits at once."""

import pytest
import torch
import torch.nn.functional as F

from engine import loss
from engine.loss import HeadCrossEntropy


@pytest.mark.parametrize("trained_head", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_equals_the_plain_head(rows, dtype, trained_head, monkeypatch):
    """The gradient of the head, too, where it is trained."""
    monkeypatch.setattr(loss, "LOGIT_ROWS", rows)
    torch.manual_seed(0)
    states = torch.randn(7, 12, dtype=dtype, requires_grad=True)
    head, wanted = torch.randn(50, 12, dtype=dtype, requires_grad=trained_head), torch.randint(50, (7,))
    logits = (states @ head.T).float()
    wanted[::2] = logits[::2].argmax(dim=1)  # hits
    plain = F.cross_entropy(logits, wanted, reduction="none")
    total, losses, hits = HeadCrossEntropy.apply(states, head, wanted)
    torch.testing.assert_close(losses, plain)
    torch.testing.assert_close(total, plain.sum())
    assert torch.equal(hits.bool(), logits.argmax(dim=1) == wanted)
    assert not hits.requires_grad and not losses.requires_grad
    trained = [states, head] if head.requires_grad else [states]
    got, want = (torch.autograd.grad(x * 0.7, trained) for x in (total, plain.sum()))
    assert all(gradient.dtype == dtype for gradient in got)
    torch.testing.assert_close(got, want, **(dict(rtol=0.03, atol=0.03) if dtype == torch.bfloat16 else {}))


def test_without_gradients_nothing_is_kept_for_backward():
    states, head, wanted = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 1, 4, 4])
    total, losses, _ = HeadCrossEntropy.apply(states, head, wanted)
    assert total.grad_fn is None
    torch.testing.assert_close(losses, F.cross_entropy(states @ head.T, wanted, reduction="none"))


def test_no_rows():
    states, head = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    total, losses, _ = HeadCrossEntropy.apply(states[:0], head, torch.tensor([], dtype=torch.int64))
    total.backward()
    assert losses.shape == (0,) and not states.grad.any() and not head.grad.any()


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
        HeadCrossEntropy.apply(states, torch.randn(100, 4), torch.randint(100, (16,)))[0].backward()
    assert largest <= max(rows * 100, 400)
