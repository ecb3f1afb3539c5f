"""Speed of generation: one stream against transformers with PEFT's LoRA; 16 episodes against one at a time.

    python -m benchmarks.decode                 both tables, with a Llama of 100M parameters
    python -m benchmarks.decode --only episodes --size 32 --dtype bfloat16

Both play records of the data file through agent.Episode, their observations recorded. Every pass is made as
always, drafts included; then the record's tokens are taken in place of what random weights say, which would
never end. So all ways have the same work.

One stream: time after an episode's first token, over the tokens said. The peers' generate says as many, after
the same prompt, one pass a token. `read` is what a pass cannot do without: the weights it meets, and the keys
and values before it.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import islice, pairwise

import torch
from torch import nn
from tqdm import tqdm

import data
from agent import Episode
from benchmarks import common, peers
from cli import UserError, number, run
from engine.generation import Drafts, Sequence, accept, generate, guess_all, score
from engine.inference import for_inference
from engine.together import together
from formats.frames import Frame
from model import ModelConfig, Transformer
from mor import ROLES, MoRConfig
from tools.mock import Tools

SMALL = dict(hidden_size=768, intermediate_size=2048, num_attention_heads=12, num_key_value_heads=4)
SMALL |= dict(head_dim=64, vocab_size=32768, num_hidden_layers=12)
TABLES = ("stream", "episodes")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common.parser("decode.py", __doc__.split("\n\n")[0])
    add, count = parser.add_argument, number(int, 1)
    parser.set_defaults(layers=SMALL["num_hidden_layers"])
    add("--only", choices=TABLES, default=argparse.SUPPRESS, help="one of the two tables")
    add("--streams", type=count, default=12, metavar="N", help="records of the first table; rows take turns")
    add("--episodes", type=count, default=48, metavar="N", help="records of the second table")
    add("--size", type=count, default=16, metavar="N", help="episodes at once")
    args = parser.parse_args(argv)
    common.check_device(args)
    return args


def small_model(args: argparse.Namespace) -> Transformer:
    config = ModelConfig.from_dict(common.SHAPE | SMALL | {"num_hidden_layers": args.layers})
    return Transformer.from_config(config, getattr(torch, args.dtype), args.device, args.seed)


class Recording(Tools):
    """Answers call after call with the record's observations."""

    def call(self, name: str, arguments: dict) -> str:
        return self.observations.pop(0)


class Dictation:
    """next_tokens, whose work is done; then what the record says takes the place of what the model says."""

    def __init__(self, history: Drafts | None = None, drafts: bool = True):
        self.ids, self.history, self.drafts = {}, history, drafts
        self.passes: list[float] = []  # when each ended

    def __call__(self, model: Transformer, sequences: list[Sequence]) -> None:
        guesses = guess_all(model, sequences, self.history) if self.drafts else [[] for _ in sequences]
        score(model, sequences, guesses).argmax(dim=-1).tolist()
        for sequence, tokens in zip(sequences, guesses, strict=True):
            wanted = self.rest_of_turn(sequence)
            accept(sequence, tokens[: len(wanted) - 1], wanted, self.history)
        self.passes.append(time.perf_counter())

    def rest_of_turn(self, sequence: Sequence) -> list[int]:
        """To its stop token: what comes then is no guess that a model could confirm, nor for the history."""
        ids, stop_ids = self.ids[sequence.cache]
        rest = ids[len(sequence.ids) :]
        return rest[: next(i for i, token in enumerate(rest) if token in stop_ids) + 1]

    def play(self, model: Transformer, frame: Frame, record: dict, speak: Callable | None = None) -> dict:
        """The record's episode, from its first query to its last answer; return what it became."""
        tools = Recording(record["tools"])
        tools.observations = [t["content"] for t in record["trajectory"] if t["role"] == "observation"]
        episode = Episode(model, frame, tools, speak=speak or partial(generate, advance=self))
        self.ids[episode.cache] = data.render(record, frame).input_ids, frame.stop_ids
        for turn in record["trajectory"]:
            if turn["role"] == "user":
                episode.user(turn["content"])
        del self.ids[episode.cache]
        return episode.record


def playable(records: list[dict], count: int) -> list[dict]:
    """The first whose every executor turn is one call with its observation, as the agent makes them."""

    def plays(record: dict) -> bool:
        turns = record["trajectory"]
        pairs = [(turn, after["role"]) for turn, after in pairwise(turns) if turn["role"] == "executor"]
        return all(len(turn.get("calls", ())) == 1 and after == "observation" for turn, after in pairs)

    return list(islice(filter(plays, records), count))


def said(record: dict, frame: Frame) -> int:
    return sum(label >= 0 for label in data.render(record, frame).labels)


# ---- one stream ----


def ours(dictation: Dictation, model: Transformer, frame: Frame, record: dict) -> tuple[float, int]:
    """Seconds after the first token, passes then."""
    dictation.passes.clear()
    assert dictation.play(model, frame, record)["trajectory"] == record["trajectory"], "another episode"
    return dictation.passes[-1] - dictation.passes[0], len(dictation.passes) - 1


def theirs(model: nn.Module, frame: Frame, record: dict) -> tuple[float, int]:
    """The same of transformers' generate, greedy, with its default cache; a streamer notes the times."""
    times: list[float] = []

    class Streamer:
        def put(self, ids: torch.Tensor) -> None:
            if ids.numel() == 1:  # first the prompt, then token after token
                times.append(time.perf_counter())

        def end(self) -> None:
            pass

    first = [turn for turn in record["trajectory"] if turn["role"] == "user"][:1]
    ids = data.render(record | {"trajectory": first, "exit_status": "cut"}, frame).input_ids
    prompt, new = torch.tensor([ids], device=model.device), said(record, frame)
    options = dict(max_new_tokens=new, min_new_tokens=new, do_sample=False, streamer=Streamer())
    model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)
    return times[-1] - times[0], len(times) - 1


def check_same(models: dict[str, nn.Module], prompt: list[int]) -> None:
    """All adapters start at zero, so all must go on alike. Raises UserError."""
    known = list(generate(models["base alone"], prompt, max_new_tokens=8))
    roles = dict(role_ids=[1] * len(prompt), role=1)
    found = {"mor": list(generate(models["mor"], prompt, **roles, max_new_tokens=8))}
    for name in models.keys() & {"peft", "transformers"}:
        ids = torch.tensor([prompt], device=models[name].device)
        made = models[name].generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )
        found[name] = made[0, len(prompt) :].tolist()
    if wrong := [name for name, tokens in found.items() if tokens != known]:
        raise UserError(f"{wrong[0]} says {found[wrong[0]]}, the base alone {known}; trust no time below")


def bytes_read(model: nn.Module, context: int) -> int:
    """Of a pass of one role after `context` tokens. The embedding is read as the head it is tied to."""
    count = sum(p.numel() for p in model.parameters())
    if isinstance(model, Transformer):
        others = tuple(f".{role}" for role in (ROLES[0], ROLES[2]))
        count -= sum(p.numel() for name, p in model.named_parameters() if name.endswith(others))
    heads = SMALL["num_key_value_heads"] * SMALL["head_dim"]
    size = next(model.parameters()).element_size()
    return size * (count + 2 * model.config.num_hidden_layers * heads * context)


def bandwidth(args: argparse.Namespace) -> float:
    """Bytes a second that a matrix of 0.5 GB is read with in a product with a vector: best of 8."""
    matrix = torch.ones(2**27 // 8192, 8192, device=args.device)
    vector, best = torch.ones(8192, device=args.device), float("inf")
    for _ in range(8):
        started = time.perf_counter()
        (matrix @ vector)[0].item()
        best = min(best, time.perf_counter() - started)
    return matrix.numel() * 4 / best


def stream_table(
    base: Transformer, mor: Transformer, frame: Frame, records: list[dict], args: argparse.Namespace
) -> None:
    """The first record warms up."""
    models = dict.fromkeys(("mor", "mor, own drafts", "mor, no drafts"), mor) | {"base alone": base}
    drafts = {"mor": Dictation(Drafts()), "mor, own drafts": Dictation()}
    drafts |= {name: Dictation(drafts=False) for name in ("mor, no drafts", "base alone")}
    if peers.without_peers(("peft",)):
        shape = SMALL | {"num_hidden_layers": args.layers}
        models["peft"] = peers.peft_model(base, **shape).to(base.lm_head.weight.dtype).eval()
        models["transformers"] = peers.llama_model(base, **shape).eval()
    context = sum(len(data.render(r, frame).input_ids) for r in records) // len(records)
    read = {name: bytes_read(model, context) for name, model in models.items()}
    for model in (mor, base):
        for_inference(model)
    check_same(models, data.render(records[0], frame).input_ids[:99])
    seconds, passes = dict.fromkeys(models, 0.0), dict.fromkeys(models, 0)
    for i, record in enumerate(tqdm(records, disable=None, leave=False)):
        for name, model in models.items():
            way = partial(ours, drafts[name]) if name in drafts else theirs
            took, made = way(model, frame, record)
            if i:
                seconds[name] += took
                passes[name] += made
    tokens, fastest = sum(said(record, frame) - 1 for record in records[1:]), bandwidth(args)
    print(f"stream    {tokens} tokens in {len(records) - 1} episodes", end="; ")
    print(f"memory is read at {fastest / 1e9:.1f} GB/s\n")
    head = f"{'one stream':16}{'ms a token':>12}{'tokens/s':>10}{'/ mor':>8}{'tokens a pass':>15}"
    print(f"{head}{'MB read a pass':>16}{'of bandwidth':>14}")
    for name, own in seconds.items():
        line = f"{name:16}{1e3 * own / tokens:12.1f}{tokens / own:10.1f}{own / seconds['mor']:8.2f}"
        share = read[name] * passes[name] / own / fastest
        print(f"{line}{tokens / passes[name]:15.2f}{read[name] / 1e6:16.0f}{share:14.0%}")


# ---- episodes ----


def episodes_table(model: Transformer, frame: Frame, records: list[dict], args: argparse.Namespace) -> None:
    """The first record warms up."""
    (warm, *records), seconds = records, {}
    for drafts in (True, False):
        for size in (1, args.size):
            dictation = Dictation(Drafts(), drafts)
            dictation.play(model, frame, warm)
            plays = (partial(dictation.play, model, frame, record) for record in records)
            started = time.perf_counter()
            done = together(model, plays, size, dictation)
            for _, made in tqdm(done, total=len(records), disable=None, leave=False):
                assert made["exit_status"] == "done", made["exit_status"]
            seconds[drafts, size] = time.perf_counter() - started
    prompt = sum(len(data.render_prompt(record, frame).input_ids) for record in records) / len(records)
    total = sum(said(record, frame) for record in records)
    each = total / len(records)
    print(f"\nepisodes  {len(records)}, on average {prompt:.0f} tokens of prompt and {each:.0f} said\n")
    print(f"{'episodes':28}{'seconds':>9}{'questions/s':>13}{'tokens said/s':>15}{'times as fast':>15}")
    for (drafts, size), own in seconds.items():
        name = ("one at a time" if size == 1 else f"{size} at once") + ("" if drafts else ", no drafts")
        line = f"{name:28}{own:9.1f}{len(records) / own:13.2f}{total / own:15.1f}"
        print(f"{line}{seconds[drafts, 1] / own:15.2f}")


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    frame, records = data.load_frame(args.tokenizer), data.read_records(args.data)
    base, loras = small_model(args).eval(), ", ".join(map(str, MoRConfig().loras))
    mor = common.mor_model(base).eval()
    size = sum(p.numel() for p in base.parameters())
    print(f"hardware  {common.hardware(args.device)}; {args.dtype}\nversions  {common.versions()}")
    print(f"model     a Llama of {size / 1e6:.0f}M parameters; LoRAs {loras} of rank {MoRConfig().rank}")
    if getattr(args, "only", "stream") == "stream":
        stream_table(base, mor, frame, playable(records, args.streams + 1), args)
    if getattr(args, "only", "episodes") == "episodes":
        episodes_table(for_inference(mor), frame, playable(records, args.episodes + 1), args)


if __name__ == "__main__":
    sys.exit(run(main))
