"""Speed of generation: one stream against transformers with PEFT's LoRA; 16 episodes against one at a time.

    python -m benchmarks.decode                 both tables, with a Llama of 100M parameters
    python -m benchmarks.decode --only episodes --size 32 --dtype bfloat16
    python -m benchmarks.decode --model DIR     with the weights of a checkpoint

Both play records of the data file through agent.Episode, their observations recorded. Every pass is made as
always, drafts included; then the record's tokens are taken in place of what the model says, which might
never end. So all ways have the same work.

One stream: time after an episode's first token, over the tokens said. The peers' generate says as many, after
the same prompt, one pass a token. `read` is what a pass cannot do without: the weights it meets, and the keys
and values before it. Before anything is timed, all models must give the logits of the base in its plain form.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from tqdm import tqdm

import data
from agent import Episode
from benchmarks import common, peers
from cli import UserError, layout, number, run
from engine.generation import Drafts, Sequence, accept, generate, guess_all, score
from engine.inference import for_inference
from engine.together import together
from formats.frames import Frame
from model import KVCache, Transformer
from mor import ROLES, MoRConfig
from tools.mock import Tools

# By how much logits may differ, see `difference`. Rounding makes 2e-6 and 5e-3; a model without rotary
# positions differs by 1e-1, one with another epsilon in its norms by 1e-2.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common.parser("decode", __doc__)
    common.add_model(parser, "llama-100m", common.LLAMA_100M["num_hidden_layers"])
    add, count = parser.add_argument, number(int, 1)
    add("--only", choices=("both", "stream", "episodes"), default="both", help="tables to make")
    add("--streams", type=count, default=12, metavar="N", help="records of the first table; rows take turns")
    add("--episodes", type=count, default=48, metavar="N", help="records of the second table")
    add("--size", type=number(int, 2), default=16, metavar="N", help="episodes at once")
    return common.parse(parser, argv)


# ---- records are played ----


class Recording(Tools):
    """Answers call after call with the record's observations."""

    def __init__(self, record: dict):
        super().__init__(record["tools"])
        self.recorded = [turn["content"] for turn in record["trajectory"] if turn["role"] == "observation"]

    def call(self, name: str, arguments: dict) -> str:
        return self.recorded.pop(0)


class Dictation:
    """next_tokens, whose work is done; then what the record says takes the place of what the model says."""

    def __init__(self, history: Drafts | None = None, drafts: bool = True):
        self.history, self.drafts = history, drafts
        self.wanted: dict[KVCache, tuple[list[int], set[int]]] = {}  # a played record's ids, and its stop ids
        self.passes: list[float] = []  # when each ended

    def __call__(self, model: Transformer, sequences: list[Sequence]) -> None:
        if self.drafts:
            guesses = guess_all(model, sequences, self.history)
        else:
            guesses = [[] for _ in sequences]
        score(model, sequences, guesses).argmax(dim=-1).tolist()
        for sequence, guessed in zip(sequences, guesses, strict=True):
            said = self.rest_of_turn(sequence)
            accept(sequence, guessed[: len(said) - 1], said, self.history)
        self.passes.append(time.perf_counter())

    def rest_of_turn(self, sequence: Sequence) -> list[int]:
        """To its stop token: what comes then is no guess that a model could confirm, nor for the history."""
        ids, stop_ids = self.wanted[sequence.cache]
        end = len(sequence.ids)
        while ids[end] not in stop_ids:
            end += 1
        return ids[len(sequence.ids) : end + 1]

    def play(self, model: Transformer, frame: Frame, record: dict, speak: Callable | None = None) -> dict:
        """The record's episode, from its first query to its last answer; return what it became."""
        if speak is None:
            speak = partial(generate, advance=self)
        episode = Episode(model, frame, Recording(record), speak=speak)
        self.wanted[episode.cache] = data.render(record, frame).input_ids, frame.stop_ids
        for turn in record["trajectory"]:
            if turn["role"] == "user":
                episode.user(turn["content"])
        del self.wanted[episode.cache]
        return episode.record


def playable(records: list[dict], count: int) -> list[dict]:
    """The first `count` that the agent can play. Raises UserError when there are fewer."""
    found = [record for record in records if plays(record)][:count]
    if len(found) < count:
        raise UserError(
            f"--data: got {len(found)} records with one call a turn, wanted {count}; ask for less"
        )
    return found


def plays(record: dict) -> bool:
    """Whether every executor turn is one call with its observation, as the agent makes them."""
    for turn, after in pairwise(record["trajectory"]):
        if turn["role"] == "executor":
            if len(turn.get("calls", ())) != 1 or after["role"] != "observation":
                return False
    return True


def count_said(record: dict, frame: Frame) -> int:
    """Tokens that the roles say."""
    return sum(label >= 0 for label in data.render(record, frame).labels)


# ---- one stream ----


def time_ours(dictation: Dictation, model: Transformer, frame: Frame, record: dict) -> tuple[float, int]:
    """Seconds after the first token, passes then."""
    dictation.passes.clear()
    assert dictation.play(model, frame, record)["trajectory"] == record["trajectory"], "another episode"
    return dictation.passes[-1] - dictation.passes[0], len(dictation.passes) - 1


class Stopwatch:
    """A streamer of transformers that notes when each new token comes."""

    def __init__(self):
        self.times: list[float] = []

    def put(self, ids: Tensor) -> None:
        if ids.numel() == 1:  # first the prompt, then token after token
            self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def time_theirs(model: nn.Module, frame: Frame, record: dict) -> tuple[float, int]:
    """The same of transformers' generate, greedy, with its default cache."""
    first = next(turn for turn in record["trajectory"] if turn["role"] == "user")
    ids = data.render(record | {"trajectory": [first], "exit_status": "cut"}, frame).input_ids
    prompt, new, watch = torch.tensor([ids], device=model.device), count_said(record, frame), Stopwatch()
    model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        streamer=watch,
    )
    return watch.times[-1] - watch.times[0], len(watch.times) - 1


def logits_of(model: nn.Module, prompt: list[int]) -> Tensor:
    """Float32 [tokens, vocab]. Our models see the last eight tokens in a pass of their own, with a cache."""
    ids = torch.tensor(prompt, device=next(model.parameters()).device)
    if not isinstance(model, Transformer):
        return model(input_ids=ids[None]).logits[0].float()
    cache = KVCache(model.config, model.model.norm.weight.dtype, ids.device)
    roles = torch.ones_like(ids)
    before = model(ids[:-8], roles[:-8], cache=cache)
    return torch.cat((before, model(ids[-8:], roles[-8:], cache=cache))).float()


def difference(found: Tensor, wanted: Tensor) -> float:
    """Root mean square of found - wanted over that of wanted."""
    return ((found - wanted).square().mean() / wanted.square().mean()).sqrt().item()


def check_same(models: dict[str, nn.Module], prompt: list[int], wanted: Tensor, tolerance: float) -> None:
    """All adapters start at zero, so all models must give the same logits. Raises UserError.

    The likeliest token will not do: in random weights the two best are often closer than rounding.
    """
    for name, model in models.items():
        found = difference(logits_of(model, prompt), wanted)
        if not found <= tolerance:
            got = f"its logits differ by {found:.1e} of their size from those of the base in its plain form"
            raise UserError(f"{name}: {got}, wanted {tolerance:.0e} or less; there is no table")


def bytes_read(model: nn.Module, context: int) -> int:
    """Of a pass of one role after `context` tokens. The embedding is read as the head it is tied to."""
    others = (f".{ROLES[0]}", f".{ROLES[2]}")
    count = sum(p.numel() for name, p in model.named_parameters() if not name.endswith(others))
    width = model.config.num_key_value_heads * model.config.head_dim
    size = next(model.parameters()).element_size()
    return size * (count + 2 * model.config.num_hidden_layers * width * context)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a matrix of 0.5 GB is read with in a product with a vector: best of 8."""
    matrix, vector = torch.ones(2**27 // 8192, 8192, device=device), torch.ones(8192, device=device)
    best = float("inf")
    for _ in range(8):
        started = common.clock(device)
        matrix @ vector
        best = min(best, common.clock(device) - started)
    return matrix.numel() * 4 / best


@dataclass
class Way:
    """A row of the first table."""

    model: nn.Module
    dictation: Dictation | None  # None: transformers' generate
    read: int = 0  # bytes a pass
    seconds: float = 0.0
    passes: int = 0

    def add(self, frame: Frame, record: dict, warm_up: bool) -> None:
        """Play a record; what it takes counts unless it is the warm-up."""
        if self.dictation:
            seconds, passes = time_ours(self.dictation, self.model, frame, record)
        else:
            seconds, passes = time_theirs(self.model, frame, record)
        if not warm_up:
            self.seconds += seconds
            self.passes += passes


def ways_of(base: Transformer, mor: Transformer, args: argparse.Namespace) -> dict[str, Way]:
    ways = {
        "mor": Way(mor, Dictation(Drafts())),
        "mor, own drafts": Way(mor, Dictation()),
        "mor, no drafts": Way(mor, Dictation(drafts=False)),
        "base alone": Way(base, Dictation(drafts=False)),
    }
    if peers.without_peers(("peft",)):
        peft = peers.peft_model(base, args)
        for p in common.trained(peft):  # not peft.to: that would round its rotary tables as well
            p.data = p.data.to(args.dtype)
        ways["peft"] = Way(peft.eval(), None)
        ways["transformers"] = Way(peers.causal_model(base, args).eval(), None)
    return ways


def stream_table(
    base: Transformer, mor: Transformer, frame: Frame, records: list[dict], args: argparse.Namespace
) -> str:
    """The first record warms up."""
    prompt = data.render(records[0], frame).input_ids[:100]
    wanted = logits_of(base, prompt)
    context = sum(len(data.render(record, frame).input_ids) for record in records) // len(records)
    ways = ways_of(base, mor, args)
    for way in ways.values():
        way.read = bytes_read(way.model, context)
    for_inference(mor)
    for_inference(base)
    check_same({name: way.model for name, way in ways.items()}, prompt, wanted, TOLERANCE[args.dtype])
    for i, record in enumerate(tqdm(records, disable=None, leave=False)):
        for way in ways.values():
            way.add(frame, record, warm_up=i == 0)
    tokens = sum(count_said(record, frame) - 1 for record in records[1:])
    fastest = bandwidth(args.device)
    print(f"stream    {tokens} tokens in {len(records) - 1} episodes; {fastest / 1e9:.1f} GB/s of memory\n")
    head = [
        "one stream",
        "ms a token",
        "tokens/s",
        "/ mor",
        "tokens a pass",
        "MB read a pass",
        "of bandwidth",
    ]
    table = [head]
    for name, way in ways.items():
        cells = [name, f"{1e3 * way.seconds / tokens:.1f}", f"{tokens / way.seconds:.1f}"]
        cells += [f"{way.seconds / ways['mor'].seconds:.2f}", f"{tokens / way.passes:.2f}"]
        share = way.read * way.passes / way.seconds / fastest
        table.append([*cells, f"{way.read / 1e6:.1f}", f"{share:.1%}"])
    return layout(table)


# ---- episodes ----


def time_episodes(model: Transformer, frame: Frame, records: list[dict], size: int, drafts: bool) -> float:
    """Seconds to play all but the first record, which warms up, `size` at once."""
    dictation = Dictation(Drafts(), drafts)
    dictation.play(model, frame, records[0])
    plays = [partial(dictation.play, model, frame, record) for record in records[1:]]
    started = time.perf_counter()
    done = together(model, plays, size, dictation)
    for _, record in tqdm(done, total=len(plays), disable=None, leave=False):
        assert record["exit_status"] == "done", record["exit_status"]
    return time.perf_counter() - started


def episodes_table(model: Transformer, frame: Frame, records: list[dict], size: int) -> str:
    played = records[1:]
    prompt = sum(len(data.render_prompt(record, frame).input_ids) for record in played) / len(played)
    total = sum(count_said(record, frame) for record in played)
    each = total / len(played)
    print(f"\nepisodes  {len(played)}, on average {prompt:.0f} tokens of prompt and {each:.0f} said\n")
    table = [["episodes", "seconds", "questions/s", "tokens said/s", "times as fast"]]
    for drafts, end in ((True, ""), (False, ", no drafts")):
        alone = time_episodes(model, frame, records, 1, drafts)
        at_once = time_episodes(model, frame, records, size, drafts)
        for name, seconds in (("one at a time", alone), (f"{size} at once", at_once)):
            cells = [name + end, f"{seconds:.1f}", f"{len(played) / seconds:.2f}"]
            table.append([*cells, f"{total / seconds:.1f}", f"{alone / seconds:.2f}"])
    return layout(table)


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    loras = MoRConfig(rank=args.rank)
    frame, records = common.load_frame(args), data.read_records(args.data)
    base = common.base_model(args).eval()
    mor = common.mor_model(base, loras).eval()
    size = sum(p.numel() for p in base.parameters())
    print(common.environment(args))
    print(f"model     {common.model_name(args)}, {size / 1e6:.1f}M parameters")
    print(f"adapter   LoRAs {loras.loras} of rank {loras.rank}")
    if args.only in ("both", "stream"):
        print(stream_table(base, mor, frame, playable(records, args.streams + 1), args), end="")
    if args.only in ("both", "episodes"):
        played = playable(records, args.episodes + 1)
        print(episodes_table(for_inference(mor), frame, played, args.size), end="")


if __name__ == "__main__":
    sys.exit(run(main))
