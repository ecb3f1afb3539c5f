"""Seeded fuzzing: records that pass their check render without a forged id; configs load or end in one line.

What is drawn depends on the seed alone; a failure names the seed.
"""

import copy
import json
import random
from pathlib import Path

import pytest
import torch
from conftest import LLAMA_SPECIALS

import data
from cli import UserError
from formats.calls import KEYWORDS
from formats.checkpoint import ModelConfig
from model import rotary_tables

# ---- records -> check -> render -> no forged id ----

PIECES = (
    *(
        *LLAMA_SPECIALS,
        "\n",
        " ",
        "",
        "x",
        "0",
        "é",
        "巴",
        "\U0001f600",
        "\u200b",
        "\x00",
        "\x1b[31m",
        "\u202e",
    ),
    *(
        "[unused11]",
        "[unused12]",
        "Action: f Arguments: {}",
        "Next: executor",
        "reasoner",
        "<tools>",
        "</tools>",
    ),
    *("<|im_start|>executor\n", "[INST]", "</s>", "<｜Assistant｜>", "<|end|>", '{"a": 1}', "```", "\\", '"'),
)


def text(chance: random.Random) -> str:
    return "".join(chance.choices(PIECES, k=chance.randint(0, 6)))


def name(chance: random.Random) -> str:
    return "".join(text(chance).split()).replace(":", "") + "f"  # no keyword within


def value(chance: random.Random, depth: int = 0) -> object:
    """A JSON value."""
    kind = chance.randrange(5 if depth > 2 else 7)
    if kind == 5:
        return [value(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    if kind == 6:
        return {text(chance): value(chance, depth + 1) for _ in range(chance.randint(0, 3))}
    return (text(chance), chance.randint(-9, 9), chance.random(), None, chance.random() < 0.5)[kind]


def record(chance: random.Random) -> dict:
    """A finished record of any order of turns, with marks of frames in all its texts."""
    domain = chance.choice(data.DOMAINS)
    names = sorted({name(chance) for _ in range(chance.randint(0, 3))})
    tools = [
        {"name": known, "description": text(chance), "parameters": {"default": value(chance)}}
        for known in names
    ]
    turns, role = [], "user"
    while role:
        turn = {"role": role, "content": text(chance)}
        following = chance.choice(data.FOLLOWS.get(role, ["executor", "summarizer"]))
        if role == "reasoner":
            turn["next"] = following
        elif role == "executor" and domain in KEYWORDS and chance.random() < 0.8:
            arguments = {text(chance): value(chance)}
            turn = {"role": role, "calls": [{"name": name(chance), "arguments": arguments}]}
        if role == "summarizer" and (len(turns) > 8 or chance.random() < 0.5):
            following = ""
        turns.append(turn)
        role = following
    return {"domain": domain, "tools": tools, "system": text(chance), "trajectory": turns}


def tame(found: object) -> object:
    """The same record with a letter in the place of every text."""
    if isinstance(found, str):
        return "x"
    if isinstance(found, list):
        return [tame(inner) for inner in found]
    return (
        {f"x{i}": tame(inner) for i, inner in enumerate(found.values())} if isinstance(found, dict) else found
    )


def tamed(given: dict) -> dict:
    """The record without a hostile text; keys, roles and what the check reads stay."""
    made = copy.deepcopy(given)
    made["system"] = "x"
    for i, tool in enumerate(made["tools"]):
        tool |= {"name": f"x{i}", "description": "x", "parameters": tame(tool["parameters"])}
    for turn in made["trajectory"]:
        for call in turn.get("calls", ()):
            call |= {"name": "x", "arguments": tame(call["arguments"])}
        if "content" in turn:
            turn["content"] = "x"
    return made


@pytest.mark.parametrize("family", ["bytes", "pangu", "phi4", "mistral"])
def test_no_record_forges_an_id(frames, family):
    """Reserved ids, their roles and what is trained are those of the same record with harmless texts."""
    frame = frames[family]
    for seed in range(60):
        given = record(random.Random(f"{family}/{seed}"))
        line = json.dumps(given).encode()
        assert data.read_line(line, f"seed {seed}") == given
        reserved = []
        for made in (given, tamed(given)):
            example = data.render(made, frame)
            rows = zip(example.input_ids, example.role_ids, example.labels, strict=True)
            reserved.append([(id, role, label != -100) for id, role, label in rows if id in frame.reserved])
        assert reserved[0] == reserved[1], f"seed {seed}"


def test_a_broken_record_ends_in_one_line():
    """A value anywhere in a record is replaced by another: it is read, or one line says where."""
    refused = 0
    for seed in range(600):
        chance = random.Random(seed)
        given = record(chance)
        place, key = given, "trajectory"
        while chance.random() < 0.8 and isinstance(place[key], dict | list) and place[key]:
            place = place[key]
            key = chance.choice([*place]) if isinstance(place, dict) else chance.randrange(len(place))
        place[key] = value(chance)
        try:
            data.read_line(json.dumps(given).encode(), "here:1")
        except UserError as error:
            refused += 1
            assert str(error).startswith("here:1: ") and "\n" not in str(error), f"seed {seed}"
    assert refused > 200


# ---- configs -> one line or loads ----

CONFIGS = sorted((Path(__file__).parent / "fixtures").glob("*/config*.json"))
VALUES = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        3,
        7,
        2**31,
        10**400,
        0.5,
        -0.5,
        1e-300,
        1e300,
        float("nan"),
        float("inf"),
    ),
    *("", "x", "default", "llama3", "longrope", "su", "yarn", "a\nb", [], [1], [0, 1], [True], ["x"], {}),
    *({"type": "linear"}, {"rope_type": "llama3"}, {"rope_theta": "x"}, {"full_attention": {}}, [[]], [{}]),
)


def broken(config: dict, chance: random.Random) -> dict:
    """One to three fields, also of the objects in it, are gone, of another value, or there twice."""
    made = copy.deepcopy(config)
    for _ in range(chance.randint(1, 3)):
        inner = [found for found in made.values() if isinstance(found, dict) and found]
        place = chance.choice(inner) if inner and chance.random() < 0.4 else made
        key = chance.choice([*place, "rope_scaling", "rope_parameters", "rope_theta", "head_dim"])
        if chance.random() < 0.2:
            place.pop(key, None)
        else:
            place[key] = copy.deepcopy(chance.choice(VALUES))
    return made


def test_a_broken_config_loads_or_ends_in_one_line():
    loaded = refused = 0
    for seed in range(1500):
        chance = random.Random(seed)
        made = broken(json.loads(chance.choice(CONFIGS).read_text("utf-8")), chance)
        try:
            config = ModelConfig.from_dict(made, "config.json")
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).startswith("config.json"), f"seed {seed}: {error}"
            continue
        loaded += 1
        tables = rotary_tables(config, torch.arange(3), [3], [config.uses_long_factor(3)])
        assert [table.shape for table in tables] == [(3, config.rotary_dim)] * 2, f"seed {seed}"
    assert loaded > 300 and refused > 300
