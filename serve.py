"""The agent as an endpoint: OpenAI's chat completions, for the clients and harnesses that people have.

    python serve.py --adapter output
    curl http://127.0.0.1:8000/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello?"}]}'

A response is a reasoner's turn, whose words are its reasoning_content, and a turn of the role that it names:
an executor's calls, which the client answers by tool messages, or a summarizer's content. No conversation is
kept: a client sends all messages each time, best with reasoning_content as it came. tools/messages.py says
what becomes of which message, docs/serve.md has examples. The page at / is for people.

Other than OpenAI's: the temperature is 0 unless a request says more, any name of a model will do, and calls
that cannot be read come as content. In the domain math the executor's code is run here, in a sandbox, until
the summarizer has spoken. No other tool is ever run.
"""

import hashlib
import secrets
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import data
from agent import HERE, Episode, load, model_arguments
from cli import MOST, ArgumentParser, number, run
from engine.adapter import WEIGHTS
from engine.serving import LOOK, Closed, Full, Passes
from formats.frames import Frame
from model import Transformer
from tools.messages import Refusal, Request, read_request
from tools.mock import Tools
from tools.replies import Reply, message_of
from tools.sandbox import Sandbox
from tools.web import Events, Handler, Server, is_local, policy

PAGE = HERE / "tools" / "page.html"

# ---- a response ----


class Response:
    """One request's episode, and what it says next. Raises Refusal for a conversation that does not fit.

    send: takes the deltas of the message. gone: whether nobody waits for them any more.
    """

    def __init__(self, server: "Endpoint", request: Request, send: Callable, gone: Callable[[], bool]):
        self.server, self.request, self.gone = server, request, gone
        self.passes = server.passes
        self.reply = Reply(request, send, server.args.domain, server.args.thoughts)
        self.left = request.max_tokens or server.args.max_tokens
        self.spoken = self.cached = self.next_look = 0
        self.episode: Episode | None = self.listen()
        self.prompt = len(self.episode.ids)

    def listen(self) -> Episode:
        """The conversation so far."""
        model, frame, request = self.server.model, self.server.frame, self.request
        written = f"{request.tools}{request.system}{request.turns}"
        if len(written) > self.server.most_characters:
            raise too_long(f"more than {self.server.most_characters:,} characters", model)
        episode = Episode(
            model,
            frame,
            Tools(request.tools),
            domain=self.server.args.domain,
            system=request.system,
            max_new_tokens=MOST,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            speak=self.speak,
            watch=self.reply.watch,
        )
        episode.follow(request.turns)
        length = len(episode.ids) + len(data.render_header("reasoner", frame).input_ids)
        if length >= model.config.max_position_embeddings:
            raise too_long(f"{length:,} tokens", model)
        return episode

    def speak(self, model: Transformer, ids: list[int], max_new_tokens: int, **options) -> Iterator[int]:
        """`generate`, until this response has all its tokens, a text of `stop` has come, or nobody waits."""
        limit = min(max_new_tokens, self.left)
        for token in self.passes.speak(model, ids, max_new_tokens=limit, **options):
            self.spoken, self.left = self.spoken + 1, self.left - 1
            yield token
            if time.monotonic() >= self.next_look:
                self.next_look = time.monotonic() + LOOK
                if self.gone():
                    raise ConnectionAbortedError
            if self.reply.stopped:
                return

    def play(self) -> str:
        """Have the roles speak; return the finish reason."""
        episode = self.episode
        self.episode = None  # it knows us: as long as each holds the other, its cache would stay in memory
        with self.passes.cache(episode.ids, episode.role_ids) as episode.cache:
            self.cached = episode.cache.length
            limit = self.solve(episode) if self.server.args.python else self.step(episode)
        if self.reply.stopped:
            return "stop"
        if limit:
            return "length"
        return "tool_calls" if self.reply.called else "stop"

    def step(self, episode: Episode) -> str | None:
        """Two turns; return the limit that the last one met."""
        turns, _, limit = episode.step(self.request.then)
        if turns[-1]["role"] == "executor":
            self.reply.execute(turns[-1])
        return limit

    def solve(self, episode: Episode) -> str | None:
        """The whole loop of the domain math; return the limit that it met."""
        query = self.request.turns[-1]
        tokens = len(data.render_turn(query, episode.frame, episode.domain).input_ids)
        episode.back((len(episode.ids) - tokens, len(self.request.turns) - 1))
        self.cached = episode.cache.length
        with Sandbox(unsafe=self.server.args.unsafe_python) as episode.python:
            status = episode.user(query["content"])
        return status if status in ("max_tokens", "context_full") else None

    def usage(self) -> dict:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.spoken,
            "total_tokens": self.prompt + self.spoken,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


def too_long(got: str, model: Transformer) -> Refusal:
    most = model.config.max_position_embeddings
    text = f"messages: got {got} with the tools, wanted less than the model's {most:,} tokens"
    return Refusal(text, "messages", "context_length_exceeded")


# ---- HTTP ----


class Endpoint(Server):
    """What all connections share: the model, its passes, the flags."""

    requests = without_thoughts = 0

    def __init__(self, model: Transformer, frame: Frame, passes: Passes, args: Namespace):
        self.model, self.frame, self.passes, self.args = model, frame, passes, args
        self.name, self.started = Path(args.adapter or args.model).name, int(time.time())
        weights = Path(args.adapter, WEIGHTS).read_bytes() if args.adapter else b""
        self.fingerprint = hashlib.sha256(weights).hexdigest()[:16]
        longest = max(map(len, frame.tokenizer.get_vocab()))
        self.most_characters = longest * model.config.max_position_embeddings  # that can ever fit
        self.page = PAGE.read_text("utf-8")
        super().__init__(args.host, args.port, Routes, args.key)


class Routes(Handler):
    """What is asked where."""

    def answer(self) -> None:
        paths = {
            ("GET", "/"): self.page,
            ("GET", "/health"): self.health,
            ("GET", "/v1/models"): self.models,
            ("POST", "/v1/chat/completions"): self.chat,
        }
        path = self.path.partition("?")[0]
        if (self.command, path) not in paths:
            known = ", ".join(f"{method} {path}" for method, path in paths)
            raise Refusal(f"{self.command} {path[:60]}: not here; there are {known}", status=404)
        paths[self.command, path]()

    def is_open(self) -> bool:
        return self.path.partition("?")[0] in ("/", "/health")

    def page(self) -> None:
        headers = {"Content-Security-Policy": policy(self.server.page)}
        self.send(self.server.page.encode(), "text/html; charset=utf-8", headers=headers)

    def health(self) -> None:
        server = self.server
        counts = {"requests": server.requests, "without_thoughts": server.without_thoughts}
        self.reply({"status": "ok", "in_work": server.passes.inside, **counts})

    def models(self) -> None:
        model = {"id": self.server.name, "object": "model", "created": self.server.started}
        self.reply({"object": "list", "data": [model | {"owned_by": "moragent"}]})

    def chat(self) -> None:
        try:
            self.complete()
        except Full:
            raise Refusal("the queue is full; try again", status=503, after=1) from None
        except Closed:
            raise Refusal("the server is about to stop", status=503, after=10) from None
        except (Refusal, ConnectionError, TimeoutError):
            raise
        except Exception:
            traceback.print_exc()
            raise Refusal("the server failed; its own output says how", status=500) from None

    def complete(self) -> None:
        server = self.server
        with self.body() as body:
            request = read_request(body, server.args.domain, server.args.thoughts)
            server.add("requests", 1)
            server.add("without_thoughts", request.without_thoughts)
            form = Stream if request.stream else Whole
            with server.passes.place(self.gone):
                sender = form(self, request)
                response = Response(server, request, sender.send, self.gone)
                sender.begin()
                reason = response.play()
        sender.finish(reason, response.usage())  # who reads slowly takes nobody's place


class Whole:
    """A response in one piece."""

    kind = "chat.completion"

    def __init__(self, handler: Routes, request: Request):
        self.handler, self.request, self.deltas = handler, request, []
        self.frame = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": self.kind,
            "created": int(time.time()),
            "model": request.model or handler.server.name,
            "system_fingerprint": handler.server.fingerprint,
        }

    def begin(self) -> None:
        """Nothing is sent before the end."""

    def send(self, delta: dict) -> None:
        self.deltas.append(delta)

    def finish(self, reason: str, usage: dict) -> None:
        message = message_of(self.deltas)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        self.handler.reply(self.frame | {"choices": [choice], "usage": usage})


class Stream(Whole):
    """A response delta by delta."""

    kind = "chat.completion.chunk"

    def begin(self) -> None:
        self.events = Events(self.handler)
        self.send({"role": "assistant", "content": ""})

    def send(self, delta: dict, reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        self.events.send(self.frame | {"choices": [choice]})

    def finish(self, reason: str, usage: dict) -> None:
        self.send({}, reason)
        if self.request.include_usage:
            self.events.send(self.frame | {"choices": [], "usage": usage})
        self.events.send("[DONE]")
        self.events.finish()


# ---- the command ----


# fmt: off
def parse_args(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(prog="serve.py", description=__doc__)
    model_arguments(parser)
    add = parser.add_argument_group("endpoint").add_argument
    add("--host", default="127.0.0.1", help="address to listen at; other than this machine's own wants --key")
    add("--port", type=number(int, 0, 65535), default=8000, help="0: any that is free")
    add("--key", default="", metavar="TEXT", help="clients must send it as `Authorization: Bearer TEXT`")
    add("--batch", type=number(int, 1, 256), default=16, help="responses at once")
    add("--queue", type=number(int, 0, 4096), default=256, help="further ones that wait; more are sent away")
    add("--max-tokens", type=number(int, 1), default=1024,
        help="of one response, all turns together; a request's own limit goes first")
    add("--thoughts", choices=("reasoning", "content"), default="reasoning",
        help="content: beside calls, the reasoner's words travel there, too, for clients that drop the other")
    add("--domain", choices=data.DOMAINS, default="bfcl",
        help="whose prompts and call format the adapter was trained on")
    add("--python", action="store_true", help="run the executor's Python in a sandbox, for --domain math")
    add("--unsafe-python", action="store_true", help="run it even where bubblewrap is not installed")
    args = parser.parse_args(argv)
    if not args.key and not is_local(args.host):
        parser.error(f"--host: got {args.host} and no --key; anybody could use it, so give --key a secret")
    args.python = args.python or args.unsafe_python
    if args.python != (args.domain == "math"):
        parser.error(f"--python: got --domain {args.domain}; wanted both --domain math and --python, or none")
    return args
# fmt: on


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.python:
        with Sandbox(unsafe=args.unsafe_python):
            pass  # said now and not at the first request
    model, frame = load(args)
    with ExitStack() as stack:
        passes = Passes(model, args.batch, args.queue)
        server = stack.enter_context(Endpoint(model, frame, passes, args))
        Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        stack.callback(wait_for_the_last, server)
        stack.enter_context(passes)
        host, port = server.server_address[:2]
        print(f"listening at http://{f'[{host}]' if ':' in host else host}:{port}; Ctrl-C ends", flush=True)
        passes.run()


def wait_for_the_last(server: Endpoint) -> None:
    """Let those who are in work be told that the server stops."""
    end = time.monotonic() + 5
    while server.busy and time.monotonic() < end:
        time.sleep(0.01)
    if server.without_thoughts:
        print(f"{server.without_thoughts} turns came back without the reasoner's words", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run(main))
