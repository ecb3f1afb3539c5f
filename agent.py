"""The agent loop of the paper's Figure 1: one sequence, three roles, and tools that answer.

          +-----------------------------------------------------------------+
          v                                                                 |
  user -> reasoner -- Next: executor ----> executor -- calls --> tools --> observation
          (Eq. 2)                          (Eq. 3)
             +------- Next: summarizer --> summarizer --> the user, who may go on
               or no turn is left          (Eq. 4)

  python agent.py --query "Weather in Bali tomorrow?" --tools tools.json

The sequence only grows: each turn is appended to the same ids, role ids and KV cache, and a token keeps the
role it entered with, so the cache stays exact when one role hands over to another. What a role generates is
parsed and rendered again by data.py, as for training; where that spelling differs, the cache is cut back to
what both have in common. So the ids always equal data.render(record).

Paper silent:
  - A reasoner that names no role is followed by the executor if it can act and nothing was observed since the
    query, else by the summarizer.
  - Calls that cannot be read stay in the trajectory as text; what is wrong becomes the observation, as
    {"error": ...}. So do calls of unknown functions, wrong arguments and tools that fail.
  - The observation of one call is its result; of several, a JSON list of their results in order.
  - "Enough attempts" (section 3.1) are made when of max_turns one is left: the summarizer's, whom the
    reasoner then names, whatever it said.
  - Figs. 11 and 12 show no observation, and the summarizer behind the executor: --no-observation.

exit_status of a record: done; max_turns (the summarizer had the last turn without the reasoner's wish);
max_tokens (a turn longer than its limit, kept as far as it got); context_full (no positions left);
interrupted (by an exception).
engine/together.py runs many episodes at once. In the domain math the executor's Python is run only when asked
for, in a sandbox (tools/sandbox.py).
"""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

import torch

import data
from cli import ArgumentParser, UserError, hanging, number, printable_json, run, terminal_width
from data import Example
from engine.adapter import load_adapter
from engine.devices import choose_device, choose_dtype
from engine.generation import generate
from engine.inference import for_inference
from formats.calls import CallError
from formats.checkpoint import checkpoint_folder
from formats.frames import FAMILIES, Frame, load_frame
from formats.prompts import PROMPTS
from model import KVCache, Transformer
from mor import ROLES
from tools.mock import Tools, as_text, observation_of, read_responses, read_tools
from tools.sandbox import Sandbox, code_of

HERE = Path(__file__).resolve().parent


# ---- the state machine ----


class Episode:
    """One conversation: `user(text)` takes a query to its end, `record` is the trajectory (data.py's format).

    python: runs the executor's code in the domain math. observe: calls and code are answered. max_turns:
    turns of roles for one query, the last of them the summarizer's. max_new_tokens: of one turn.
    temperature 0 is greedy. speak: called as generate is. watch: called with (role, piece) as text appears,
    (role, None) where a turn ends.
    """

    def __init__(
        self,
        model: Transformer,
        frame: Frame,
        tools: Tools | None = None,
        *,
        python: Sandbox | None = None,
        observe: bool = True,
        domain: str = "bfcl",
        system: str | None = None,
        max_turns: int = 12,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        speak: Callable[..., Iterator[int]] = generate,
        watch: Callable[[str, str | None], None] = lambda role, piece: None,
    ):
        self.model, self.frame, self.domain = model, frame, domain
        self.tools, self.python, self.observe = tools or Tools(), python, observe
        self.max_turns, self.max_new_tokens = max_turns, max_new_tokens
        self.speak, self.watch = speak, watch
        weight = model.model.embed_tokens.weight
        generator = torch.Generator(weight.device).manual_seed(seed)
        self.sampling = {"temperature": temperature, "top_p": top_p, "generator": generator}
        self.cache = KVCache(model.config, weight.dtype, weight.device)
        self.record: dict = {"tools": self.tools.schemas, "domain": domain, "trajectory": []}
        if system is not None:
            self.record["system"] = system
        self.ids: list[int] = []
        self.role_ids: list[int] = []
        self._append(data.render_prompt(self.record, frame))

    def user(self, text: str) -> str:
        """Take one query to its summary or to a limit; return the exit status, which the record holds too."""
        if self.record.get("exit_status", "done") != "done":
            raise ValueError(f"the episode has ended ({self.record['exit_status']}); start another one")
        self.record["exit_status"] = "interrupted"
        self._hear("user", as_text(text))
        self.record["exit_status"] = status = self._run()
        return status

    def _run(self) -> str:
        role = "reasoner"  # a query wakes the reasoner
        for _ in range(self.max_turns - 1):
            turn, fault, limit = self._take_turn(role)
            if limit:
                return limit
            if role == "reasoner":  # Eq. 2: a thought, and who is next
                role = turn["next"]
            elif role == "executor" and self.observe:  # Eq. 3: functions and arguments
                self._hear("observation", self._execute(turn, fault))
                role = "reasoner"  # it sees what came of them
            elif role == "executor":
                role = "summarizer"
            else:  # Eq. 4: the answer
                return "done"
        status = "done" if role == "summarizer" else "max_turns"
        if status == "max_turns":
            self._hand_over()
        _, _, limit = self._take_turn("summarizer")
        return limit or status

    def _hand_over(self) -> None:
        """Have the reasoner name the summarizer: in its last turn, or in one without a thought."""
        turn, start = {"role": "reasoner", "content": "", "next": "summarizer"}, len(self.ids)
        if self.record["trajectory"][-1]["role"] == "reasoner":
            last = self.record["trajectory"].pop()
            turn["content"] = last["content"]
            start -= len(data.render_turn(last, self.frame, self.domain).input_ids)
        self._settle(turn, start, self.ids[start:])
        self.watch("note", "no further turn is left, so summarizer")
        self.watch("note", None)

    # ---- for those who lead the episode themselves ----

    def follow(self, turns: list[dict]) -> None:
        """Append what was said before."""
        for turn in turns:
            self._settle(turn, len(self.ids), [])

    def step(self, then: str | None = None) -> tuple[list[dict], str | None, str | None]:
        """A reasoner turn and one of the role that it names -> (turns, fault of the calls, limit or None).

        No call is answered. then: the role that follows, whomever the reasoner names. limit: a status as in
        the head of this file, of the turn that is the last one; turns may then lack the second.
        """
        start = len(self.ids)
        turn, _, limit = self._take_turn("reasoner")
        if limit:
            return [turn] if turn else [], None, limit
        if then and turn["next"] != then:
            turn |= {"next": then}
            self.record["trajectory"].pop()
            self._settle(turn, start, self.ids[start:])
        second, fault, limit = self._take_turn(turn["next"])
        return [turn, second] if second else [turn], fault, limit

    def here(self) -> tuple[int, int]:
        """A place to which `back` returns: tokens and turns so far."""
        return len(self.ids), len(self.record["trajectory"])

    def back(self, place: tuple[int, int]) -> None:
        """Take back all that came after a place; the cache keeps what stood before it."""
        tokens, turns = place
        self.cache.truncate(tokens)
        del self.ids[tokens:], self.role_ids[tokens:], self.record["trajectory"][turns:]

    # ---- a turn: generate, parse, append ----

    def _take_turn(self, role: str) -> tuple[dict, str | None, str | None]:
        """Generate and append a turn of `role` -> (turn, what is wrong with its calls, exit status)."""
        header = data.render_header(role, self.frame)
        room = self.model.config.max_position_embeddings - len(self.ids) - len(header.input_ids)
        if room <= 0:
            return {}, None, "context_full"
        start = len(self.ids)
        self._append(header)
        spoken = self._generate(role, min(room, self.max_new_tokens))
        status = "context_full" if len(spoken) == room else "max_tokens"
        if spoken[-1:] and spoken[-1] in self.frame.stop_ids:
            spoken, status = spoken[:-1], None
        turn, fault = self._parse(role, self.frame.decode(spoken))
        self._settle(turn, start, self.ids[start:] + spoken)
        return turn, fault, status

    def _generate(self, role: str, limit: int) -> list[int]:
        """The tokens of one turn, its stop token included."""
        tokens = self.speak(
            self.model,
            self.ids,
            role_ids=self.role_ids,
            role=ROLES.index(role),
            max_new_tokens=limit,
            stop_ids=self.frame.stop_ids,
            cache=self.cache,
            **self.sampling,
        )
        spoken, text, shown = [], "", 0
        self.watch(role, "")
        for token in tokens:
            spoken.append(token)
            if token not in self.frame.stop_ids:
                text = self.frame.decode(spoken)
            if not text.endswith("\ufffd"):  # a character may take several tokens
                self.watch(role, text[shown:])
                shown = len(text)
        self.watch(role, text[shown:])
        self.watch(role, None)
        return spoken

    def _parse(self, role: str, text: str) -> tuple[dict, str | None]:
        """The turn that `text` spells, and what is wrong with its calls."""
        try:
            turn = data.parse_turn(role, text, self.domain)
        except CallError as fault:
            return {"role": role, "content": text}, str(fault)
        if role == "reasoner" and turn["next"] is None:
            turn["next"] = unnamed_next(self.record)
            self.watch("note", f"the reasoner named no role, so {turn['next']}")
            self.watch("note", None)
        return turn, None

    def _execute(self, turn: dict, fault: str | None) -> str:
        """The observation on an executor turn."""
        if fault:
            return as_text({"error": fault})
        if "calls" in turn:
            results = [self.tools.call(call["name"], call["arguments"]) for call in turn["calls"]]
            return observation_of(results)
        if self.python:
            return self.python.run(code_of(turn["content"]))
        return as_text({"error": "Python is not run here"})

    def _hear(self, role: str, text: str) -> None:
        """Append a user turn or an observation."""
        self.watch(role, text)
        self.watch(role, None)
        self._settle({"role": role, "content": text}, len(self.ids), [])

    def _settle(self, turn: dict, start: int, generated: list[int]) -> None:
        """Append `turn`: its rendering replaces what was `generated`, the sequence from `start` on.

        The cache keeps what both have in common.
        """
        rendered = data.render_turn(turn, self.frame, self.domain)
        same = 0
        for ours, theirs in zip(generated, rendered.input_ids, strict=False):
            if ours != theirs:
                break
            same += 1
        self.cache.truncate(start + same)
        del self.ids[start:], self.role_ids[start:]
        self._append(rendered)
        self.record["trajectory"].append(turn)

    def _append(self, example: Example) -> None:
        self.ids += example.input_ids
        self.role_ids += example.role_ids


def unnamed_next(record: dict) -> str:
    """Who follows a reasoner that names nobody (paper silent, see above)."""
    roles = [turn["role"] for turn in record["trajectory"]]
    while roles and roles[-1] != "user":
        if roles.pop() == "observation":
            return "summarizer"
    return "executor" if record["tools"] or record["domain"] == "math" else "summarizer"


def run_episode(model: Transformer, frame: Frame, tools: Tools | None, query: str, **options: Any) -> dict:
    """One query to its end -> its record. `options` are those of Episode."""
    episode = Episode(model, frame, tools, **options)
    episode.user(query)
    return episode.record


# ---- the command ----

COLOURS = data.COLOURS | {"user": 1, "observation": 2, "note": 31}
INDENT = 13  # columns of a role's name in the trace


class Trace:
    """Prints turns as they come. Only names of roles stand at the left edge: no text can pass for a turn."""

    def __init__(self, file: TextIO, silent: tuple[str, ...] = ()):
        self.file, self.silent, self.fresh, self.column = file, silent, True, INDENT
        self.colour = file.isatty() and not os.environ.get("NO_COLOR")

    def __call__(self, role: str, piece: str | None) -> None:
        if role in self.silent:
            return
        start = ""
        if self.fresh:
            start, self.column = f"{role:<{INDENT}}", INDENT
        self.fresh = piece is None
        text = "\n"
        if piece is not None:
            text, self.column = hanging(piece, INDENT, terminal_width(self.file), self.column)
        colour, plain = (f"\033[{COLOURS[role]}m", "\033[0m") if self.colour else ("", "")
        print(f"{colour}{start}{text}{plain}", end="", file=self.file, flush=True)


# fmt: off
def model_arguments(parser: ArgumentParser) -> None:
    """What `load` asks for."""
    add = parser.add_argument_group("agent").add_argument
    add("--model", default=str(HERE / "tiny"), metavar="DIR|HUB_ID", help="base model")
    add("--adapter", default="output", metavar="DIR", help="what train.py wrote for it; '': the base alone")
    add("--frame", choices=tuple(FAMILIES), default="",
        help="chat format; default: the adapter's, else by the special tokens of the tokenizer")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
        help="of the base; auto: bfloat16 on CUDA")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: cuda where there is one")
    add("--prompts", choices=[*PROMPTS],
        help="wording of the roles' prompts; None: the adapter's, and short where there is no adapter")


def sampling_arguments(parser: ArgumentParser) -> None:
    """How turns are drawn, as an Episode takes it."""
    add = parser.add_argument_group("sampling").add_argument
    add("--max-new-tokens", type=number(int, 1), default=512, help="tokens of one turn")
    add("--temperature", type=number(float, 1e-3, 100, zero=True), default=0.0, help="0: the likeliest token")
    add("--top-p", type=number(float, 1e-6, 1), default=1.0,
        help="draw from the likeliest tokens of this mass")
    add("--seed", type=number(int, 0, 2**63 - 1), default=0, help="of the sampling")


def parse_args(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(prog="agent.py", description="Ask an agent. The trace is printed role by role.")
    model_arguments(parser)
    add = parser.add_argument_group("task").add_argument
    add("--domain", choices=data.DOMAINS, default="bfcl",
        help="whose prompts and call format the adapter was trained on")
    add("--query", metavar="TEXT", help="one question; None: a conversation, a line a turn")
    add("--tools", metavar="FILE", help="JSON list of function schemas; None: no functions")
    add("--python", action="store_true", help="run the executor's Python in a sandbox, for --domain math")
    add("--unsafe-python", action="store_true", help="run it even where bubblewrap is not installed")
    add("--responses", metavar="FILE",
        help="recorded {name, arguments, response}, a JSON list or a line each")
    add("--no-observation", action="store_true",
        help="answer no calls: the summarizer follows the executor, as in Figs. 11 and 12")
    add("--json", action="store_true", help="print nothing but the trajectory, one object")
    add("--max-turns", type=number(int, 1), default=12,
        help="turns of roles for one question, the last of them the summarizer's")
    add("--max-result-chars", type=number(int, 1), default=4000, help="characters of one tool result")
    sampling_arguments(parser)
    args = parser.parse_args(argv)
    if args.query is None and args.json:
        parser.error("--json: got no --query; wanted one question to print the trajectory of")
    if args.query is not None and not args.query.strip():
        parser.error("--query: got an empty text; wanted a question")
    args.python = args.python or args.unsafe_python
    if args.python and args.domain != "math":
        parser.error(f"--python: got --domain {args.domain}; wanted math, whose executor writes Python")
    if args.no_observation and (args.responses or args.python):
        given = "--responses" if args.responses else "--python"
        parser.error(f"--no-observation: got {given}; wanted one of the two, as nothing is answered")
    if args.responses and not args.tools:
        parser.error("--responses: got no --tools; wanted the schemas of the recorded functions")
    return args
# fmt: on


def sampling(args: Namespace, i: int = 0) -> dict:
    """How turns are drawn in the i-th of several episodes: options of Episode."""
    return {
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "seed": args.seed + i,
    }


def load(args: Namespace) -> tuple[Transformer, Frame]:
    """The adapted model, or the base with no --adapter, made for inference; its frame. Raises UserError."""
    folder = checkpoint_folder(args.model)
    if args.adapter and not (Path(args.adapter) / "adapter_config.json").is_file():
        if (Path(args.adapter) / "config.json").is_file():
            mend = f"give --model {args.adapter} --adapter ''"
            raise UserError(f"--adapter: {args.adapter} holds a whole model and no adapter; {mend}")
        base = "" if args.model == str(HERE / "tiny") else f" --model {args.model}"
        command = f"python train.py --data bfcl.jsonl{base} --output {args.adapter}"
        mend = f"train one with `{command}` or give --adapter its folder, or '' for the base alone"
        raise UserError(f"{args.adapter}: no adapter there; {mend}")
    device = choose_device(args.device)
    model = Transformer.from_pretrained(folder, choose_dtype(args.dtype, device), device)
    frame, prompts = args.frame, args.prompts or ""
    if args.adapter:  # it goes on with the frame and the prompts that it was trained with
        config = load_adapter(model, args.adapter)
        if args.prompts not in (None, config.prompts):
            got = f"--prompts: got {args.prompts}, {args.adapter} was trained with {config.prompts}"
            raise UserError(f"{got}; leave the flag out")
        frame, prompts = frame or config.frame, config.prompts
    frame = load_frame(folder, frame, prompts)
    return for_inference(model.eval()), frame


def converse(start: Callable[[], Episode]) -> None:
    """Take a query a line until the input ends. After a conversation that met a limit a new one begins."""
    sys.stdin.reconfigure(errors="replace")
    print("One question a line; Ctrl-D ends.", file=sys.stderr)
    prompt, episode = f"{'user':<{INDENT}}" if sys.stdin.isatty() else "", start()
    while True:
        try:
            query = input(prompt)
        except EOFError:
            return
        if query.strip() and episode.user(query) != "done":
            print(f"stopped: {episode.record['exit_status']}; a new conversation begins", file=sys.stderr)
            episode = start()


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")
    schemas = read_tools(args.tools) if args.tools else []
    responses = read_responses(args.responses) if args.responses else []
    tools = Tools(schemas, responses=responses, max_result_chars=args.max_result_chars)
    with Sandbox(unsafe=args.unsafe_python) if args.python else nullcontext() as python:
        play(args, tools, python)


def play(args: Namespace, tools: Tools, python: Sandbox | None) -> None:
    """Answer --query, or converse."""
    model, frame = load(args)
    options = {"domain": args.domain, "max_turns": args.max_turns, "python": python, **sampling(args)}
    options["observe"] = not args.no_observation
    if not args.json:
        typed = args.query is None and sys.stdin.isatty()
        options["watch"] = Trace(sys.stdout, silent=("user",) if typed else ())
    if args.query is None:
        return converse(lambda: Episode(model, frame, tools, **options))
    record = run_episode(model, frame, tools, args.query, **options)
    if args.json:
        print(printable_json(record))
    elif record["exit_status"] != "done":
        print(f"stopped: {record['exit_status']}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run(main))
