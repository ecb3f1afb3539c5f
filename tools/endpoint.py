"""A client of OpenAI-compatible chat endpoints, POST {base_url}/chat/completions, for many threads at once.

  with Journal(Path("answers.jsonl")) as journal, Endpoint(url, "gpt-4o", journal, read_key()) as endpoint:
      endpoint.ask([{"role": "user", "content": "Rain in Bali?"}])  # "Yes."

Every answer is appended to the journal (journal.py) as it arrives: what was answered is never asked again, by
a later run either. Of two identical requests at the same time both are sent, and the first answer counts.

  the server's reply                                  what `ask` makes of it
  a text, or parts with text in them                  returned, journaled; a CutOff if max_tokens ended it
  a call of a tool that the request offers            its arguments are the text
  filtered, refused, without a text                   Unanswered, journaled
  400, 413, 422                                       the same, but not before there was any answer; where the
                                                      first HOPELESS requests end so, UserError as below
  400 that names max_completion_tokens                tried again with that in place of max_tokens
  408, 409, 425, 429, 5xx; none, late, cut, broken,   tried again; in the end Unanswered, not journaled;
  too large, without an answer                        where the first HOPELESS replies have none, UserError
  any other status; no connection on any try; a web   UserError, also for all who ask later
  page or a stream of events before any answer

The key goes into the Authorization header and nowhere else: where a server repeats it, we put "[key]".
"""

import contextlib
import json
import os
import random
import threading
import time
from codecs import BOM_UTF8
from collections.abc import Callable
from dataclasses import dataclass

from cli import UserError
from tools.connection import DETAIL, Connection, Transient, proxy_of, seconds_after
from tools.journal import Journal, request_bytes

Message = dict[str, str]  # {"role": "system", "user" or "assistant", "content": text}
Ask = Callable[[list[Message], float], str]  # the second: the least temperature to ask with
Prices = tuple[float, float] | None  # of a million tokens, of prompts and of completions

REFUSED = (400, 413, 422)  # this request, now and ever
HOPELESS = 20  # of these, and no answer: it is not the requests but what they have in common
TRANSIENT = (408, 409, 425, 429)  # and 5xx
MEND = {
    401: "set the right key in the environment",
    402: "add credit",
    403: "set a key with access",
    404: "check --base-url (most end in /v1) and the model's name",
    407: "set user and password of the proxy in the environment, or unset it",
}
LONGEST_BACK_OFF = 60.0  # seconds
CUT = ("length", "max_tokens", "MAX_TOKENS", "model_length")  # what servers call the end at max_tokens


class Unanswered(Exception):
    """No answer to this request. `reason` is short and countable, `detail` is what the server said.

    passing: asked again, it may be answered.
    """

    def __init__(self, reason: str, detail: str = "", passing: bool = False):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.passing = reason, detail, passing


class CutOff(str):
    """An answer that was cut off at max_tokens: to ask again would end so again."""


# ---- usage, before a run and in it ----


@dataclass
class Usage:
    """What asking costs. Tokens as the server counts them; where it does not, or before a run, estimated."""

    requests: int = 0  # answered by the server, refusals included
    cached: int = 0  # answered by the journal
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0  # requests whose tokens are estimated
    prices: Prices = None

    @property
    def cost(self) -> float | None:
        """In the currency of the prices."""
        if self.prices is None:
            return None
        return (self.prompt_tokens * self.prices[0] + self.completion_tokens * self.prices[1]) / 1e6

    def __str__(self) -> str:
        text = (
            f"{self.requests:,} requests ({self.cached:,} more from the journal, {self.retries:,} retries), "
            f"{self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens"
        )
        if self.estimated:
            text += f" (estimated for {self.estimated:,}: 4 characters a token)"
        if self.cost is not None:
            text += f", cost {self.cost:,.2f}"
        return text


def tokens_in(*texts: str) -> int:
    """A guess: four characters a token, as in English."""
    return -(-sum(map(len, texts)) // 4)


# ---- the endpoint ----


def read_key(variable: str = "OPENAI_API_KEY") -> str | None:
    """The key in the environment; None where there is none, for servers that want none."""
    return os.environ.get(variable, "").strip() or None


class Endpoint(contextlib.AbstractContextManager):
    """One model at one server. `ask` may be called from any number of threads; `usage` counts.

    workers: open connections. rate: requests a minute, evenly spaced. tries: of one request, in all.
    backoff: seconds before the second try, doubled before each further one. connect, read (between two pieces
    of a reply) and total (of one try): seconds. Raises UserError as Connection does.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        journal: Journal,
        key: str | None = None,
        *,
        temperature: float | None = 0.0,
        max_tokens: int | None = 1024,
        workers: int = 16,
        rate: float | None = None,
        tries: int = 8,
        backoff: float = 1.0,
        connect: float = 10.0,
        read: float = 120.0,
        total: float = 300.0,
        prices: Prices = None,
    ):
        limits = {"workers": workers, "connect": connect, "read": read, "total": total}
        self._connection = Connection(base_url, key, **limits)
        self.base_url, self.model, self.journal = self._connection.base_url, model, journal
        self._settings = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
        self._tries, self._backoff = tries, backoff
        self._renamed = False  # whether the server wants max_completion_tokens
        self._spacing = 60 / rate if rate else 0.0  # seconds between two requests
        self.usage = Usage(prices=prices)
        self._lock = threading.Lock()  # of `usage` and of what follows
        self._free, self._replies = 0.0, 0  # when the next request may start, by the monotonic clock
        self._answered, self._empty = False, 0  # whether any, how many replies without one before that
        self._fault: str | None = None  # one that concerns all requests
        self._ended = threading.Event()  # set where there is one

    def __exit__(self, *_) -> None:
        self._connection.close()

    def knows(self, messages: list[Message]) -> bool:
        """Whether the journal has an answer, or a refusal."""
        key, _ = request_bytes(self._settings | {"messages": messages})
        return key in self.journal

    def ask(self, messages: list[Message], least: float = 0.0, sample: int = 0, **settings) -> str:
        """The answer, from the journal or the server. Raises Unanswered, UserError.

        least: the temperature, where the endpoint's own one is lower. sample: which one of several answers to
        the same request; the journal keeps each. settings: further fields of it: tools, tool_choice.
        """
        body = self._settings | settings | {"messages": messages}
        if body["temperature"] is not None:
            body["temperature"] = max(body["temperature"], least)
        key, data = request_bytes(body)
        if sample:
            key, _ = request_bytes({"request": key, "sample": sample})
        if key in self.journal:
            entry = self.journal[key]
            with self._lock:
                self.usage.cached += 1
                if "refused" not in entry:
                    self._answered = True
            return answer_of(entry)
        tokens = tokens_in(*(message["content"] for message in messages))
        entry = {"key": key, "model": self.model} | self._answer(data, tokens)
        if self._answered:  # a refusal before that may be mended by other settings of the server
            entry = self.journal.add(entry)
        return answer_of(entry)

    def _answer(self, data: bytes, tokens: int) -> dict:
        """Try until there is an answer or a refusal. tokens: of the prompt, estimated."""
        replies, unreachable = self._replies, True
        for number in range(self._tries):
            self._wait_turn()
            try:
                sent = renamed(data) if self._renamed else data
                return self._read(sent, *self._connection.post(sent), tokens)
            except Transient as error:
                fault = error
            if fault.unusable:
                self._give_up_if_hopeless(str(fault), MEND[404])
            unreachable &= fault.unreachable
            if number + 1 < self._tries:
                self._back_off(number, fault)
        if unreachable and self._replies == replies:  # nobody else got through meanwhile
            proxy = proxy_of(self._connection.url)
            if proxy:
                how = "mend or unset the proxy in the environment, or start the server"
                raise self._end(f"cannot be reached through the proxy {proxy} ({fault}); {how}")
            raise self._end(f"cannot be reached ({fault}); start the server or mend --base-url")
        raise Unanswered(f"no answer in {self._tries} tries", str(fault), passing=True)

    def _back_off(self, number: int, fault: Transient) -> None:
        """Wait after try `number`, from 0; after "too many requests" all threads do."""
        wait = min(self._backoff * 2**number, LONGEST_BACK_OFF) * random.uniform(0.5, 1)
        with self._lock:
            self.usage.retries += 1
            if fault.busy:
                self._free = max(self._free, time.monotonic() + (fault.after or wait))
        self._sleep(fault.after + wait)

    def _wait_turn(self) -> None:
        """Wait until the rate limit and the server's last "too many requests" allow one more."""
        while True:
            if self._fault:
                raise UserError(self._fault)
            with self._lock:
                now = time.monotonic()
                if now >= self._free:
                    self._free = now + self._spacing
                    return
                wait = self._free - now
            self._sleep(wait)

    def _sleep(self, seconds: float) -> None:
        """Raises UserError as soon as there is a fault of all requests."""
        if self._ended.wait(seconds):
            raise UserError(self._fault)

    def _end(self, fault: str) -> UserError:
        """The fault as an error, and the end of all asking. What is under way may finish: it is paid for."""
        self._fault = self._fault or f"{self.base_url}: {fault}, then run again: what is answered is kept"
        self._ended.set()
        return UserError(self._fault)

    def _read(self, sent: bytes, status: int, headers: dict, body: bytes, tokens: int) -> dict:
        """What a reply says, counted and in the journal's form. Raises Transient, UserError."""
        with self._lock:
            self._replies += 1
        try:
            reply = json.loads(body)
        except (ValueError, RecursionError):
            reply = body.decode(errors="replace")
        estimated = False
        if 200 <= status < 300:
            if (what := no_endpoint(headers, body)) and not self._answered:
                raise self._end(f"the server answered {status} with {what}; {MEND[404]}")
            entry, estimated = self._read_choice(reply, tokens)
            self._answered = True
        elif status in REFUSED and b"max_completion_tokens" in body and b'"max_tokens":' in sent:
            self._renamed = True
            raise Transient(f"{status} {self._said(reply)}")
        elif status in REFUSED:
            entry = refusal(f"the server refused the request ({status})", self._said(reply))
            got = f"{entry['refused']}: {entry['detail']}"
            self._give_up_if_hopeless(got, "mend the model's name, its temperature or --max-tokens")
        elif b"insufficient_quota" in body:  # OpenAI's, with 429
            raise self._end_by(status, reply, MEND[402])
        elif status in TRANSIENT or status >= 500:
            after = seconds_after(headers.get("retry-after"), time.time())
            raise Transient(f"{status} {self._said(reply)}", after, busy=status == 429)
        else:
            how = MEND.get(status, "mend --base-url (redirects are not followed)")
            raise self._end_by(status, reply, how)
        with self._lock:
            self.usage.requests += 1
            self.usage.prompt_tokens += entry["prompt_tokens"]
            self.usage.completion_tokens += entry["completion_tokens"]
            self.usage.estimated += estimated
        return entry

    def _end_by(self, status: int, reply: object, how: str) -> UserError:
        """As `_end`, for a status that no other request will escape; how: to mend it."""
        return self._end(f"the server answered {status} {self._said(reply)} for model {self.model!r}; {how}")

    def _give_up_if_hopeless(self, got: str, how: str) -> None:
        """Raises UserError for the reply that makes HOPELESS of them without an answer; how: to mend it."""
        with self._lock:
            self._empty += not self._answered
            hopeless = not self._answered and self._empty >= HOPELESS
        if hopeless:
            raise self._end(f"{self._empty} requests and no answer; {got}; {how}")

    def _read_choice(self, reply: object, tokens: int) -> tuple[dict, bool]:
        """The entry of a well-formed reply, and whether its tokens are estimated. Raises Transient."""
        try:
            choice = reply["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            content, refused = arguments_of(message), message.get("refusal")
            if content is None:
                content = text_of(message.get("content"))
        except (LookupError, TypeError, AttributeError):
            what = f"a reply without an answer: {self._said(reply)}"
            raise Transient(what, unusable=True) from None
        if not isinstance(content, (str, type(None))):
            raise Transient("a reply whose answer is no text", unusable=True)
        entry = {"content": content, "finish_reason": finish}
        if content:
            entry["content"] = self._connection.clean(content)
        if finish:
            entry["finish_reason"] = self._said(finish)
        if refused:
            entry |= refusal("the model refused", self._said(refused))
        elif finish == "content_filter":
            entry |= refusal("the server filtered the answer", "")
        elif content is None:
            entry |= refusal("an answer without a text", f"finish_reason {entry['finish_reason']}")
        counts = counted(reply.get("usage"))
        estimated = counts is None
        if estimated:
            counts = tokens, tokens_in(content or "")
        return entry | {"prompt_tokens": counts[0], "completion_tokens": counts[1]}, estimated

    def _said(self, reply: object) -> str:
        """What a reply says of its fault, in one line; servers differ in where they say it."""
        for name in ("error", "message", "detail"):
            if isinstance(reply, dict) and reply.get(name):
                reply = reply[name]
        text = reply if isinstance(reply, str) else json.dumps(reply)
        return " ".join(self._connection.clean(text).split())[:DETAIL]


def answer_of(entry: dict) -> str:
    """An entry's content. Raises Unanswered where it is a refusal."""
    if "refused" in entry:
        raise Unanswered(entry["refused"], entry.get("detail", ""))
    return CutOff(entry["content"]) if entry.get("finish_reason") in CUT else entry["content"]


def text_of(content: object) -> object:
    """A message's content; of a list of parts the texts, without thoughts. None where there is no text."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text"):
            part = part.get("text")
        if isinstance(part, str):
            texts.append(part)
    return "".join(texts) if texts else None


def arguments_of(message: dict) -> object:
    """The arguments of a message's first call of a tool; None where it calls none."""
    calls = message.get("tool_calls")
    return calls[0]["function"]["arguments"] if calls else None


def no_endpoint(headers: dict, body: bytes) -> str:
    """What else than a chat endpoint's reply stands here, for a message; "" where it may be one."""
    kind, start = headers.get("content-type", "").lower(), body[:100].removeprefix(BOM_UTF8).lstrip()
    if start.startswith(b"{"):
        return ""
    if start.startswith(b"<") or "html" in kind:
        return "a web page"
    if start.startswith((b"data:", b"event:", b":")) or "event-stream" in kind:
        return "a stream of events, which was not asked for"
    return ""


def renamed(data: bytes) -> bytes:
    """The request with max_completion_tokens in place of max_tokens, as newer models want it."""
    body = json.loads(data)
    if "max_tokens" in body:
        body["max_completion_tokens"] = body.pop("max_tokens")
    return request_bytes(body)[1]


def counted(usage: object) -> tuple[int, int] | None:
    """Tokens of prompt and completion, if the server has counted both."""
    if not isinstance(usage, dict):
        return None
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return counts if all(type(count) is int and count >= 0 for count in counts) else None


def refusal(reason: str, detail: str) -> dict:
    """What the journal keeps of a request that was refused."""
    nothing = {"content": None, "finish_reason": None, "prompt_tokens": 0, "completion_tokens": 0}
    return nothing | {"refused": reason, "detail": detail}
