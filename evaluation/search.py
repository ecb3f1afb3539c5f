"""Tree search over roles: ToolBench's chain (CoT) and its depth-first search (DFS_woFilter_w2), its "DFSDT".

A search grows a tree of nodes from messages. One message of ToolBench's model is here a reasoner turn and the
turn of the role that it names; a node is, as there,

    Thought         what the reasoner says, if it says anything
    Action          the function of a call, and below it
    Action Input    its arguments, with the observation; one pair of them for each call

and the summarizer's turn is a call of Finish: with an answer, or with the sentence that gives up. Depth
counts nodes, not messages: of the published 12 a reasoner that always thinks has three calls and Finish.

A depth-first search is at one place at a time. So one Episode with one KV cache serves a whole query, and to
go back is to cut: ids, roles, trajectory and cache end again where the node ended. A second child is told
what was tried before, in a user turn that is cut out again before the child's own turns are kept.

    answer              a node whose Finish gives one: the search ends
    gave up             code 4: neither the node nor its parent are tried again, but the parent's parent
    dead end            the depth is reached, or a turn met a limit (max_tokens, context_full)
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from agent import Episode
from sources.toolbench import FINISH, GIVE_UP, SEARCH_PROMPT
from tools.mock import observation_of

WIDTH = 2  # children of a node
MAX_QUERIES = 200  # messages of a search; the last one is thrown away, as published
DEAD_END = 1  # levels to go back after a dead end; three of ToolBench's older trees have 2
GAVE_UP = 2  # levels to go back after giving up
WARMTH = 0.7  # temperature of second children, where they are drawn and not asked for by a prompt
UNKNOWN, ANSWER, RESTART = 1, 3, 4  # codes: no such function, an answer was given, the run gave up

# ---- messages and nodes ----


@dataclass
class Call:
    """A call as text, with what came of it. code: 0, or ToolBench's number for a kind of fault."""

    name: str
    arguments: str
    observation: str
    code: int = 0


@dataclass
class Message:
    """What is said at once. thought: None for no node. failed: a limit was met, nothing can follow."""

    thought: str | None
    calls: list[Call]
    failed: bool = False
    request: str = ""  # the diversity message that it was an answer to


@dataclass(eq=False)
class Node:
    kind: str
    text: str
    parent: "Node | None" = None
    call: Call | None = None  # of an Action Input
    message: Message | None = None  # the one that ends here
    number: int = 0  # in the order of visits; 0 inside a message
    pruned: bool = False
    finished: bool = False
    children: list["Node"] = field(default_factory=list)
    depth: int = 0

    def child(self, kind: str, text: str, call: Call | None = None) -> "Node":
        """Append one."""
        self.children.append(Node(kind, text, self, call, depth=self.depth + 1))
        return self.children[-1]

    @property
    def code(self) -> int | None:
        return self.call.code if self.call else None

    def path(self) -> list["Node"]:
        """From the root's child down to this node."""
        return [*self.parent.path(), self] if self.parent else []

    def all(self) -> Iterator["Node"]:
        """This node and all below it, in the order of the search."""
        yield self
        for child in self.children:
            yield from child.all()


def grow(node: Node, message: Message) -> Node:
    """Append a message's nodes, one below the other; return the last."""
    if message.thought is not None or not message.calls:
        node = node.child("Thought", message.thought or "")
    for call in message.calls:
        node = node.child("Action", call.name).child("Action Input", call.arguments, call)
    node.message = message
    node.pruned = message.failed or node.code == RESTART
    return node


def diversity_message(node: Node) -> str:
    """What a further child is told: the first call below each earlier child; "" where there is none."""
    tried = []
    for below in node.children:
        while below.kind != "Action Input" and below.children:
            below = below.children[0]
        if below.call:
            call = {"name": below.call.name, "arguments": below.call.arguments}
            tried.append(call | {"function_output": below.call.observation, "mento-carlo-action-value": 0.0})
    if not tried:
        return ""
    parts = [f"{SEARCH_PROMPT}; what was tried before has failed. From this state these were tried:"]
    parts.append(json.dumps(tried, indent=2, ensure_ascii=False))
    if node.call:
        parts.append(f"The observation before that was: {node.call.observation}")
    parts.append("Think about the state and what was tried, then do something different from all of it.")
    return "\n".join(parts)


# ---- the search ----


class Search:
    """One query's search. `tree()` or `chain()` runs it; then `answer` is the node that ends it, or None.

    speaker: propose(request, number) is the next Message at the place where the speaker stands, which moves
    behind it; request is a diversity message or "", number that of the node if the message is to be drawn
    differently, else None. here() is a place, back(place) returns there. second: "prompt" or "sample".
    """

    def __init__(
        self,
        speaker: Any,
        max_depth: int = 12,
        second: str = "prompt",
        max_queries: int = MAX_QUERIES,
        dead_end: int = DEAD_END,
    ):
        self.speaker, self.max_depth, self.second = speaker, max_depth, second
        self.max_queries, self.dead_end = max_queries, dead_end
        self.root = Node("Action Input", "")
        self.answer: Node | None = None
        self.gave_up: list[Node] = []
        self.queries = self.visits = 0

    def chain(self) -> None:
        """CoT@1: message after message, to an answer, to giving up or to a limit."""
        node = self.root
        while not self._ends(node):
            self.queries += 1
            node = grow(node, self.speaker.propose("", None))

    def tree(self) -> None:
        """DFS_woFilter_w2: the first answer counts."""
        self._visit(self.root)
        if self.answer:
            mark_finished(self.answer)

    def _visit(self, node: Node) -> float:
        """Search below a node; return how many levels to go back."""
        node.number = self.visits
        self.visits += 1
        if self._ends(node):
            return GAVE_UP if node.code == RESTART else self.dead_end
        place = self.speaker.here()
        for _ in range(WIDTH):
            self.queries += 1
            if self.queries >= self.max_queries:
                return math.inf
            back = self._visit(self._further_child(node, place))
            if self.answer:
                return math.inf
            if back > 1:
                return back - 1
        return 1

    def _further_child(self, node: Node, place: Any) -> Node:
        """Propose a child of a node, from the place where it ends -> the last node of the child's message."""
        request, number = "", None
        if node.children:
            self.speaker.back(place)
            if self.second == "prompt":
                request = diversity_message(node)
            else:
                number = node.number
        message = self.speaker.propose(request, number)
        message.request = request
        return grow(node, message)

    def _ends(self, node: Node) -> bool:
        """Whether nothing follows this node; what it means is kept."""
        if node.code == ANSWER:
            self.answer = node
        elif node.code == RESTART:
            self.gave_up.append(node)
        elif node.depth >= self.max_depth:
            node.pruned = True
        return node.code == ANSWER or node.pruned


def mark_finished(node: Node) -> None:
    """Mark an answer, and upwards to the second Action Input above it, as ToolBench does."""
    inputs = 0
    while node and inputs < 3:
        node.finished = True
        inputs += node.kind == "Action Input"
        node = node.parent


# ---- an Episode as the speaker ----


class Roles:
    """Messages from an Episode: a reasoner turn, the turn of the role that it names, and the observation.

    execute: (name, arguments) -> observation and code of one call. seed: of messages that are to be drawn.
    """

    def __init__(self, episode: Episode, execute: Callable[[str, dict], tuple[str, int]], seed: int = 0):
        self.episode, self.execute, self.seed = episode, execute, seed
        self.here, self.back = episode.here, episode.back

    def propose(self, request: str, number: int | None) -> Message:
        """The next message. A request is heard for this message only: the turns are kept without it."""
        episode, place = self.episode, self.episode.here()
        if request:
            episode.follow([{"role": "user", "content": request}])
        turns, fault, limit = self._step(number)
        if request:
            episode.back(place)
            episode.follow(turns)
        if limit:
            return Message(limit, [], failed=True)
        thought, act = turns
        if act["role"] == "summarizer":
            calls = [finish(act["content"])]
        else:
            calls = self._execute(act, fault)
            together = observation_of([call.observation for call in calls])
            episode.follow([{"role": "observation", "content": together}])
        return Message(thought["content"] or None, calls)

    def _step(self, number: int | None) -> tuple[list[dict], str | None, str | None]:
        """Episode.step; with a number, drawn with WARMTH by seed and number, whatever was drawn before."""
        if number is None:
            return self.episode.step()
        before = self.episode.sampling
        seed = random.Random(f"{self.seed}/{number}").getrandbits(63)
        generator = torch.Generator(before["generator"].device).manual_seed(seed)
        warm = {"temperature": max(before["temperature"], WARMTH), "generator": generator}
        self.episode.sampling = before | warm
        try:
            return self.episode.step()
        finally:
            self.episode.sampling = before

    def _execute(self, turn: dict, fault: str | None) -> list[Call]:
        """An executor turn's calls with their observations; text that is no call is a call of no function."""
        if fault:
            return [Call("", turn["content"], json.dumps({"error": fault, "response": ""}), UNKNOWN)]
        calls = []
        for call in turn["calls"]:
            observation, code = self.execute(call["name"], call["arguments"])
            arguments = json.dumps(call["arguments"], ensure_ascii=False)
            calls.append(Call(call["name"], arguments, observation, code))
        return calls


def finish(text: str) -> Call:
    """A summarizer's text as ToolBench's call that ends a run."""
    arguments, said, code = {"return_type": "give_answer", "final_answer": text}, "an answer is given", ANSWER
    if text.strip() == GIVE_UP:
        arguments, said, code = {"return_type": "give_up_and_restart"}, "the run is given up", RESTART
    return Call(FINISH, json.dumps(arguments, ensure_ascii=False), json.dumps({"response": said}), code)
