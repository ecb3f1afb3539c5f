"""Held-out turns: a trajectory is read once, its turns are written anew and held against the references.

train.py reports the shares of right turns, evaluate.py also how near the texts are.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from tqdm import tqdm

import data
from engine.dataset import HeldOut
from engine.devices import Processes
from engine.generation import generate
from engine.loss import LOGIT_ROWS, token_losses
from formats.calls import CallError, parse_calls, same_calls
from formats.frames import Frame
from model import KVCache, Transformer
from mor import ROLES


def spread(items: Iterable, limit: int) -> list:
    """`limit` of the items, evenly spread; 0: all."""
    items = list(items)
    count = min(limit or len(items), len(items))
    return [items[i * len(items) // count] for i in range(count)]


@dataclass
class Retraced:
    """A trajectory that the model has read, with the token it takes for likeliest after each."""

    record: dict
    ids: list[int]
    role_ids: list[int]
    spans: list[tuple[int, int, int]]  # of each turn: its start, that of its content, its end
    likeliest: list[int]
    cache: KVCache


@torch.no_grad()
def retrace(model: Transformer, record: dict, frame: Frame) -> Retraced:
    """One forward over a whole trajectory."""
    whole, spans = data.render_prompt(record, frame), []
    for turn in record["trajectory"]:
        start = len(whole.input_ids)
        whole.extend(data.render_turn(turn, frame, data.domain_of(record)))
        spans.append((start, start + len(frame.headers[turn["role"]]), len(whole.input_ids)))
    weight = model.model.norm.weight
    cache = KVCache(model.config, weight.dtype, weight.device)
    ids, roles = (torch.tensor(part, device=weight.device) for part in (whole.input_ids, whole.role_ids))
    hidden = model.hidden_states(ids, roles, cache=cache)
    likeliest = torch.cat([model.lm_head(rows).argmax(dim=-1) for rows in hidden.split(LOGIT_ROWS)])
    return Retraced(record, whole.input_ids, whole.role_ids, spans, likeliest.tolist(), cache)


def write_turns(
    model: Transformer, read: Retraced, frame: Frame, speak: Callable = generate, every: bool = False
) -> list[dict]:
    """Let the model write, greedily, the turns of reasoner and executor, each after its reference history.

    -> {"turn", "role", "text", "reference", "ended"} of each. "own", beside a reasoner's that names the
    executor, is the executor's turn after these words. every: also turns without calls to compare, which are
    the summarizer's and code. A turn that does not end in 2 x reference + 16 tokens is cut there.

    Greedy writing retraces the reference while each token is the likeliest. `read` tells how far that goes,
    and `speak`, called as generate is, takes over there. The last turn comes first: what its writing cuts
    from the cache, the turns before it do not need.
    """
    turns, ids, roles, cache = read.record["trajectory"], read.ids, read.role_ids, read.cache

    def complete(ids: list[int], roles: list[int], begun: int, length: int) -> tuple[str, bool]:
        """A turn, of which `begun` tokens end the ids, and whether it ends. length: of the reference."""
        limit = min(2 * length + 16 - begun, model.config.max_position_embeddings - len(ids))
        options = dict(role=roles[-1], max_new_tokens=limit, stop_ids=frame.stop_ids, cache=cache)
        new = list(speak(model, ids, role_ids=roles, **options))
        ended = bool(new) and new[-1] in frame.stop_ids
        return frame.decode(ids[len(ids) - begun :] + (new[:-1] if ended else new)), ended

    def write(i: int) -> tuple[str, bool]:
        _, content, end = read.spans[i]
        for t in range(content, end):
            if read.likeliest[t - 1] != ids[t]:
                return complete(ids[:t], roles[:t], t - content, end - content)
        return frame.decode(ids[content : end - 1]), True

    def write_after(i: int, own: dict) -> tuple[str, bool]:
        """Turn i after an own turn in place of the one before it."""
        start, (_, content, end) = read.spans[i - 1][0], read.spans[i]
        example = data.render_turn(own, frame, data.domain_of(read.record))
        example.extend(data.render_header(turns[i]["role"], frame))
        cache.truncate(start)
        return complete(ids[:start] + example.input_ids, roles[:start] + example.role_ids, 0, end - content)

    written = {}
    for i, turn in reversed(list(enumerate(turns))):
        if not (turn["role"] == "reasoner" or "calls" in turn or every and turn["role"] in ROLES):
            continue
        (text, ended), (_, content, end) = write(i), read.spans[i]
        reference = frame.decode(ids[content : end - 1])
        written[i] = {"turn": i, "role": turn["role"], "text": text, "reference": reference, "ended": ended}
        said, named = data.parse_next(text)
        if turn["role"] == "reasoner" and "calls" in turns[i + 1] and ended and named == "executor":
            own, after = {"role": "reasoner", "content": said, "next": named}, written[i + 1]
            same = after["text"], after["ended"]
            text, ended = same if text == reference else write_after(i + 1, own)
            written[i]["own"] = text if ended else ""
    return [*written.values()][::-1]


def count_turns(record: dict, written: list[dict]) -> Counter:
    """How many turns of write_turns are right; one without an end is not.

    exact: the calls are those of the reference, in any order. exact_own: so even after the reasoner's own
    words, which must name the executor.
    """
    turns, counts = record["trajectory"], Counter()
    references = {made["turn"]: made["reference"] for made in written}

    def exact(text: str, i: int) -> bool:
        return text == references[i] or holds(text, turns[i]["calls"])

    for made in written:
        i, text = made["turn"], made["text"] if made["ended"] else ""
        if "calls" in turns[i]:
            counts.update(executor_turns=1, exact=int(exact(text, i)))
        elif made["role"] == "reasoner":
            counts.update(reasoner_turns=1, next_role=int(data.parse_next(text)[1] == turns[i]["next"]))
            counts["exact_own"] += "own" in made and exact(made["own"], i + 1)
    return counts


def holds(text: str, calls: list[dict]) -> bool:
    """Whether an executor's text spells these calls, in any order, and no others."""
    try:
        return same_calls(parse_calls(text), calls)
    except CallError:
        return False


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


# ---- training ----


def per_role(sums: list[list[float]]) -> dict[str, float | None]:
    """loss_<role> and accuracy_<role> from the sums of token_losses; None for a role without tokens."""
    found = {}
    for role, (loss, hits, supervised, _) in zip(ROLES, sums, strict=True):
        found |= {f"loss_{role}": share(loss, supervised), f"accuracy_{role}": share(hits, supervised)}
    return found


# ---- evaluation ----


@torch.no_grad()
def evaluate(
    model: Transformer,
    held_out: list[HeldOut],
    frame: Frame,
    args: argparse.Namespace,
    processes: Processes,
) -> dict:
    """Losses and accuracies on the reference tokens, and shares of turns that the model itself writes right.

    It writes, greedily, for --eval-limit trajectories spread evenly over the file.
    """
    model.eval()
    by_role = torch.zeros(len(ROLES), 4, dtype=torch.float64, device=model.model.norm.weight.device)
    packs = data.pack([t.length for t in held_out], args.tokens_per_batch, 0, 0)
    for indices in packs[processes.rank :: processes.size]:
        by_role += token_losses(model, [held_out[i].example for i in indices])[1]
    sums = processes.sum(by_role).tolist()

    chosen, counts = spread(held_out, args.eval_limit)[processes.rank :: processes.size], Counter()
    for each in tqdm(chosen, desc="writing turns", disable=processes.bar(), leave=False):
        read = retrace(model, each.record, frame)
        counts += count_turns(each.record, write_turns(model, read, frame))
    names = ("executor_turns", "exact", "exact_own", "reasoner_turns", "next_role")
    counted = processes.sum(torch.tensor([counts[name] for name in names], device=by_role.device))
    executor_turns, exact, exact_own, reasoner_turns, next_role = counted.tolist()
    nll, supervised = sum(row[0] for row in sums), sum(row[2] for row in sums)
    found = dict(n=len(held_out), loss=nll / supervised, **per_role(sums))
    found |= dict(executor_turns=executor_turns, executor_exact=share(exact, executor_turns))
    found |= dict(executor_exact_own=share(exact_own, executor_turns))
    return found | dict(reasoner_turns=reasoner_turns, next_role_accuracy=share(next_role, reasoner_turns))


def table(lines: list[dict]) -> str:
    """The first and the last evaluation of every set."""
    shown = ("executor_exact", "executor_exact_own", "next_role_accuracy")
    rows = [
        f"{'held-out set':20} {'step':>7} {'n':>6}" + "".join(f"{key:>20}" for key in shown) + f"{'loss':>9}"
    ]
    for name in dict.fromkeys(line["set"] for line in lines):
        of_set = [line for line in lines if line["set"] == name]
        for line in (of_set[0], of_set[-1]):
            found = line["eval"]
            shares = "".join(
                f"{'-' if found[key] is None else format(found[key], '.1%'):>20}" for key in shown
            )
            rows.append(f"{name:20} {line['step']:7} {found['n']:6}{shares}{found['loss']:9.4f}")
    return "\n".join(rows)
