"""Many episodes at once: each is plain code in a thread; one forward pass serves all that wait for tokens."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any

from engine.generation import Drafts, Sequence, generate, next_tokens
from model import Transformer

# ---- many episodes at once ----


def together(
    model: Transformer, plays: Iterable[Callable], size: int, advance: Callable | None = None
) -> Iterator[tuple[int, Any]]:
    """Perform `plays`, up to `size` at once; yield (number, what it returned) of each as it ends.

    A play is a function of `speak`, which takes the place of generate:

        plays = (lambda speak, q=q: run_episode(model, frame, tools, q, speak=speak) for q in queries)

    Each runs in a thread of its own, as plain code from top to bottom. A thread that wants tokens sleeps;
    when all sleep, this thread, the only one that meets the model, makes one forward pass for all. When a
    play ends, the next begins. Which thread comes first decides nothing. A play's exception is raised here.
    advance appends the next tokens; if None, next_tokens, which guesses from what any play has said.
    """
    advance = advance or partial(next_tokens, history=Drafts())
    events: SimpleQueue = SimpleQueue()  # (number, a sequence that wants tokens, what wakes its thread)
    numbered, asleep, running, closed = enumerate(plays), [], 0, False

    def perform(number: int, play: Callable) -> None:
        def forward(model: Transformer, sequences: list[Sequence]) -> None:
            wake: SimpleQueue = SimpleQueue()
            events.put((number, sequences[0], wake))
            if closed or not wake.get():
                raise Closed

        try:
            end = Ended(play(partial(generate, advance=forward)))
        except BaseException as fault:
            end = Ended(fault=fault)
        events.put((number, end, None))

    try:
        while True:
            for number, play in islice(numbered, size - running):
                Thread(target=perform, args=(number, play), daemon=True).start()
                running += 1
            if not running:
                return
            if len(asleep) == running:
                asleep.sort(key=lambda entry: entry[0])
                advance(model, [sequence for _, sequence, _ in asleep])
                for _, _, wake in asleep:
                    wake.put(True)
                asleep.clear()
            number, event, wake = events.get()
            if not isinstance(event, Ended):
                asleep.append((number, event, wake))
                continue
            running -= 1
            if event.fault is not None:
                raise event.fault
            yield number, event.result
    finally:
        closed = True
        while not events.empty():
            asleep.append(events.get())
        for _, _, wake in asleep:
            if wake is not None:
                wake.put(False)


class Closed(Exception):
    """Ends the thread of a play that nobody waits for any more."""


@dataclass
class Ended:
    result: Any = None
    fault: BaseException | None = None
