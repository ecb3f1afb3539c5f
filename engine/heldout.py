"""Held-out turns: the model reads a trajectory, writes its turns itself, and is compared with it.

train.py reports the shares of right turns (`evaluate`, `table`), evaluate.py also how near the texts are.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

import data
from cli import layout
from engine.dataset import HeldOut
from engine.devices import Processes
from engine.generation import generate
from engine.loss import LOGIT_ROWS, HeadCrossEntropy, sums_by_role, token_losses
from engine.sharding import in_step
from engine.together import together
from formats.calls import CallError, parse_calls, same_calls
from formats.frames import Frame
from model import KVCache, Transformer
from mor import ROLES

AT_ONCE = 16  # trajectories whose turns are written side by side


def spread(items: Iterable, limit: int) -> list:
    """`limit` of the items, evenly spread; 0: all."""
    items = list(items)
    count = min(limit or len(items), len(items))
    return [items[i * len(items) // count] for i in range(count)]


def share(part: float, whole: float) -> float | None:
    """None where there is nothing to have a share of."""
    return part / whole if whole else None


# ---- reading: one forward over a whole trajectory ----


@dataclass
class Span:
    """Where a turn stands among the tokens of its trajectory."""

    start: int  # of its header
    content: int  # of its first token after the header
    end: int  # of the next turn


@dataclass
class Retraced:
    """A trajectory that the model has read."""

    record: dict
    ids: list[int]
    role_ids: list[int]
    spans: list[Span]  # one a turn
    likeliest: dict[int, int]  # the model's token behind each position whose next token is supervised
    sums: Tensor  # per role, as token_losses has them
    cache: KVCache

    def reference(self, i: int) -> list[int]:
        """The tokens of turn i, without header and end."""
        return self.ids[self.spans[i].content : self.spans[i].end - 1]


@torch.no_grad()
def retrace(model: Transformer, record: dict, frame: Frame) -> Retraced:
    """One forward over a whole trajectory."""
    whole, spans = data.render_prompt(record, frame), []
    for turn in record["trajectory"]:
        start = len(whole.input_ids)
        whole.extend(data.render_turn(turn, frame, data.domain_of(record)))
        spans.append(Span(start, start + len(frame.headers[turn["role"]]), len(whole.input_ids)))
    weight = model.model.norm.weight
    cache = KVCache(model.config, weight.dtype, weight.device)
    batch = data.collate([whole])
    role_ids, labels = batch.role_ids.to(weight.device), data.targets(batch).to(weight.device)
    here = (labels >= 0).nonzero().squeeze(1)
    states = model.hidden_states(batch.input_ids.to(weight.device), role_ids, cache=cache, rows=here)
    _, losses, hits = HeadCrossEntropy.apply(states, model.lm_head.weight, labels[here])
    said = torch.cat([model.lm_head(rows).argmax(dim=-1) for rows in states.split(LOGIT_ROWS)])
    likeliest = dict(zip(here.tolist(), said.tolist(), strict=True))
    sums = sums_by_role(losses, hits, role_ids, here)
    return Retraced(record, whole.input_ids, whole.role_ids, spans, likeliest, sums, cache)


# ---- writing: the model's own turns ----


def write_turns(
    model: Transformer, read: Retraced, frame: Frame, speak: Callable = generate, every: bool = False
) -> list[dict]:
    """Let the model write, greedily, the turns of reasoner and executor, each after its reference history.

    -> {"turn", "role", "text", "reference", "ended"} of each. "own", beside a reasoner's that names the
    executor, is the executor's turn after these words. every: also turns without calls to compare, which are
    the summarizer's and code. A turn that does not end in 2 x reference + 16 tokens is cut there. `speak` is
    called as generate is.

    The last turn is written first: writing overwrites the cache from where the turn leaves its reference, and
    the turns before it need only what stands before.
    """
    turns, written = read.record["trajectory"], {}
    for i in reversed(range(len(turns))):
        if not is_written(turns[i], every):
            continue
        role, reference = turns[i]["role"], frame.decode(read.reference(i))
        text, ended = write_turn(model, read, i, frame, speak)
        written[i] = {"turn": i, "role": role, "text": text, "reference": reference, "ended": ended}
        if ended and role == "reasoner" and "calls" in turns[i + 1]:
            own = data.parse_turn("reasoner", text, data.domain_of(read.record))
            if own["next"] == "executor":
                calls, calls_ended = written[i + 1]["text"], written[i + 1]["ended"]
                if text != reference:
                    calls, calls_ended = write_after(model, read, i + 1, own, frame, speak)
                written[i]["own"] = calls if calls_ended else ""
    return [written[i] for i in sorted(written)]


def is_written(turn: dict, every: bool) -> bool:
    """Whether write_turns writes a turn."""
    if turn["role"] == "reasoner" or "calls" in turn:
        return True
    return every and turn["role"] in ROLES


def write_turn(model: Transformer, read: Retraced, i: int, frame: Frame, speak: Callable) -> tuple[str, bool]:
    """Turn i after its reference history -> its text, and whether it ends.

    Greedy writing repeats the reference while each token is the likeliest, which `read` tells. `speak` takes
    over where it leaves the reference.
    """
    span = read.spans[i]
    for t in range(span.content, span.end):
        if read.likeliest[t - 1] != read.ids[t]:
            said = t - span.content
            return go_on(model, read, i, read.ids[:t], read.role_ids[:t], said, frame, speak)
    return frame.decode(read.reference(i)), True


def write_after(
    model: Transformer, read: Retraced, i: int, own: dict, frame: Frame, speak: Callable
) -> tuple[str, bool]:
    """Turn i after the model's `own` turn in place of the one before it -> its text, and whether it ends."""
    start = read.spans[i - 1].start
    read.cache.truncate(start)  # other tokens stand there
    example = data.render_turn(own, frame, data.domain_of(read.record))
    example.extend(data.render_header(read.record["trajectory"][i]["role"], frame))
    ids, role_ids = read.ids[:start] + example.input_ids, read.role_ids[:start] + example.role_ids
    return go_on(model, read, i, ids, role_ids, 0, frame, speak)


def go_on(
    model: Transformer,
    read: Retraced,
    i: int,
    ids: list[int],
    role_ids: list[int],
    said: int,
    frame: Frame,
    speak: Callable,
) -> tuple[str, bool]:
    """Turn i, whose first `said` tokens are the last of the ids -> its text, and whether it ends."""
    span = read.spans[i]
    longest = 2 * (span.end - span.content) + 16
    room = model.config.max_position_embeddings - len(ids)
    options = {
        "role_ids": role_ids,
        "role": role_ids[-1],
        "max_new_tokens": min(longest - said, room),
        "stop_ids": frame.stop_ids,
        "cache": read.cache,
    }
    spoken = list(speak(model, ids, **options))
    ended = bool(spoken) and spoken[-1] in frame.stop_ids
    if ended:
        spoken.pop()
    return frame.decode(ids[len(ids) - said :] + spoken), ended


# ---- counting: which turns are right ----


def verdicts(record: dict, written: list[dict]) -> dict[str, list[bool]]:
    """Which turns of write_turns are right, in their order; one without an end is not.

    next_role: of reasoners. exact: of executors, the calls are those of the reference, in any order.
    exact_own: of executors again, also after the reasoner's own words, which must name the executor.
    """
    turns, found = record["trajectory"], {"next_role": [], "exact": [], "exact_own": []}
    references = {line["turn"]: line["reference"] for line in written}

    def exact(text: str, i: int) -> bool:
        if text == references[i]:  # also where the tokenizer's decoding spoils a character of both
            return True
        return holds(text, turns[i]["calls"])

    for line in written:
        i, text = line["turn"], line["text"] if line["ended"] else ""
        if "calls" in turns[i]:
            found["exact"].append(exact(text, i))
        elif line["role"] == "reasoner":
            _, named = data.parse_next(text)
            found["next_role"].append(named == turns[i]["next"])
            if "calls" in turns[i + 1]:
                found["exact_own"].append("own" in line and exact(line["own"], i + 1))
    return found


def count_turns(record: dict, written: list[dict]) -> Counter:
    """How many turns of write_turns are right, and how many there are."""
    found = verdicts(record, written)
    counts = Counter({name: sum(right) for name, right in found.items()})
    counts.update(executor_turns=len(found["exact"]), reasoner_turns=len(found["next_role"]))
    return counts


def holds(text: str, calls: list[dict]) -> bool:
    """Whether an executor's text spells these calls, in any order, and no others."""
    try:
        return same_calls(parse_calls(text), calls)
    except CallError:
        return False


# ---- training ----


def per_role(sums: list[list[float]]) -> dict[str, float | None]:
    """loss_<role> and accuracy_<role> from the sums of token_losses; None for a role without tokens."""
    found = {}
    for role, (loss, hits, supervised, _) in zip(ROLES, sums, strict=True):
        found[f"loss_{role}"] = share(loss, supervised)
        found[f"accuracy_{role}"] = share(hits, supervised)
    return found


@torch.no_grad()
def evaluate(
    model: Transformer,
    held_out: list[HeldOut],
    frame: Frame,
    args: argparse.Namespace,
    processes: Processes,
) -> dict:
    """Losses and accuracies on the reference tokens, and shares of turns that the model itself writes right.

    It writes, greedily, for --eval-limit trajectories spread evenly over the file; the others it only reads.
    The model may be in either form; in that of engine/inference.py it takes less time.
    """
    model.eval()
    by_role = torch.zeros(len(ROLES), 4, dtype=torch.float64, device=model.model.norm.weight.device)
    chosen = spread(range(len(held_out)), args.eval_limit)
    others = [held_out[i] for i in sorted(set(range(len(held_out))) - set(chosen))]
    packs = data.pack([each.length for each in others], args.tokens_per_batch, 0, 0)
    packs = packs[processes.rank :: processes.size]
    read = (token_losses(model, [others[i].example for i in indices])[1] for indices in packs)

    counts = Counter()
    mine = chosen[processes.rank :: processes.size]
    plays = (reading_and_writing(model, held_out[i].record, frame) for i in mine)
    written = together(model, plays, AT_ONCE)
    with in_step(model, processes):
        for sums in progress(read, "read", len(packs), 0, processes):
            by_role += sums
        for _, (sums, right) in progress(written, "read and written", len(mine), AT_ONCE, processes):
            by_role += sums
            counts += right
    sums = processes.sum(by_role).tolist()
    nll, supervised = sum(row[0] for row in sums), sum(row[2] for row in sums)
    names = ("executor_turns", "exact", "exact_own", "reasoner_turns", "next_role")
    counted = processes.sum(torch.tensor([counts[name] for name in names], device=by_role.device))
    executor_turns, exact, exact_own, reasoner_turns, next_role = counted.tolist()
    return {
        "n": len(held_out),
        "loss": nll / supervised,
        **per_role(sums),
        "executor_turns": executor_turns,
        "executor_exact": share(exact, executor_turns),
        "executor_exact_own": share(exact_own, executor_turns),
        "reasoner_turns": reasoner_turns,
        "next_role_accuracy": share(next_role, reasoner_turns),
    }


def reading_and_writing(model: Transformer, record: dict, frame: Frame) -> Callable:
    """The play of a trajectory, for engine/together.py -> its sums of token_losses, its count_turns."""
    read = retrace(model, record, frame)  # here, since the thread of a play must not meet the model

    def perform(speak: Callable) -> tuple[Tensor, Counter]:
        return read.sums, count_turns(record, write_turns(model, read, frame, speak))

    return perform


def progress(results: Iterable, what: str, total: int, at_once: int, processes: Processes) -> Iterator:
    """Pass on `total` results, with a bar or, where stderr is no terminal, about twenty lines.

    A line says how long the rest takes; the first comes with the first result after five seconds. Of
    results that are made side by side, `at_once` count as half done.
    """
    started = time.perf_counter()
    due = started + 5
    with tqdm(total=total, desc=what, disable=processes.bar(), leave=False) as bar:
        for done, result in enumerate(results, 1):
            yield result
            bar.update()
            now = time.perf_counter()
            if bar.disable and now >= due and done < total:
                reached = done + min(at_once, total - done) / 2
                whole = (now - started) * total / reached
                left = (started + whole - now) / 60
                processes.say(f"{what}: {done} of {total}, {left:.1f} min left")
                due = now + max(5, whole / 20)


def table(lines: list[dict]) -> str:
    """The first and the last evaluation of every set, from the lines of metrics.jsonl that hold one."""
    shares = ("executor_exact", "executor_exact_own", "next_role_accuracy")
    rows = [["held-out set", "step", "n", *shares, "loss"]]
    for name in dict.fromkeys(line["set"] for line in lines):
        of_set = [line for line in lines if line["set"] == name]
        for line in (of_set[0], of_set[-1]):
            found = line["eval"]
            percents = ["-" if found[key] is None else f"{found[key]:.1%}" for key in shares]
            rows.append([name, str(line["step"]), str(found["n"]), *percents, f"{found['loss']:.4f}"])
    return layout(rows).rstrip("\n")
