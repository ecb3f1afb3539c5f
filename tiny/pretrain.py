"""Make the bundled base model: a byte-level BPE tokenizer and a small Llama, pretrained on text of world.py.

    python -m tiny.pretrain --output tiny

Documents of three levels, one after the other, since a model this small finds out how to copy only from short
and easy text:
0. copying: random tokens, said twice (a fifth of the later levels as well);
1. one function of one or two parameters, and some questions about it;
2. several functions, parallel calls, questions that no tool fits, calls to be written in another notation,
   and looking up keys of an object.
All in the native chat frame (system, user, assistant, ipython). The assistant answers in four notations
(JSON, code, tags, words) and retells results in English. The roles of this project, its prompts and its
notation never occur here, nor do the functions kept for evaluation. Half of the functions are made up on the
spot, so that names must be copied.

The loss is taken on the assistant's turns and on the second half of copies: nobody can predict the rest.
"""

import json
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from cli import ArgumentParser, number, run, write_whole
from engine.tensors import save_file
from model import ModelConfig, Transformer
from tiny import world

BEGIN, END, HEADER, HEADER_END, TURN_END, PAD = range(6)
SPECIAL_TOKENS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
]
VOCABULARY = 2048
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "max_position_embeddings": 4096,
    "attention_bias": True,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": BEGIN,
    "eos_token_id": [END, TURN_END],
    "torch_dtype": "float32",
}

# ------------------------------------------------------------------------------------------- documents

Turn = tuple[str, str]  # (header word, text); the assistant's are trained


def made_up_function(rng: random.Random) -> world.Function:
    """A function nobody has seen: any action, known or made-up things, parameters of any domain."""
    things = [thing for kinds, _ in world.DOMAINS.values() for thing in kinds if not world.held_out(thing)]
    thing = rng.choice(things)
    while rng.random() < 0.7 or world.held_out(thing):
        words = [rng.choice(things).split()[0], world.made_up_word(rng), rng.choice(things).split()[-1]]
        thing = " ".join(rng.sample(words, rng.randint(1, 2)))
    action = rng.choice(list(world.ACTIONS))
    parameters = [world.PARAMETERS[name] for name in rng.sample(list(world.PARAMETERS), rng.randint(1, 4))]
    if rng.random() < 0.4:
        parameters[rng.randrange(len(parameters))] = made_up_parameter(rng)
    required = max(1, len(parameters) - rng.choice([0, 0, 1]))
    name = world.function_name(action, thing, rng.choice(list(world.DOMAINS)) if rng.random() < 0.2 else None)
    return world.Function(name, action, thing, tuple(parameters[:required]), tuple(parameters[required:]))


def made_up_parameter(rng: random.Random) -> world.Parameter:
    """A parameter whose name says nothing: only the same word in the question tells which value is meant."""
    word = world.made_up_word(rng)
    name = (
        word
        if rng.random() < 0.5
        else f"{word}_{rng.choice(['code', 'level', 'name', 'number', 'type', 'id'])}"
    )
    kind = rng.choice(["string", "integer", "number"])
    draw = {"string": lambda r: world.made_up_word(r), "integer": lambda r: r.randint(1, 9999),
            "number": lambda r: r.randint(1, 999) / 10}[kind]  # fmt: skip
    said = name.replace("_", " ")
    phrases = (f"with {said} {{v}}", f"for the {said} {{v}}", f"{said} {{v}}")
    return world.Parameter(name, {"type": kind, "description": f"the {said}"}, phrases, draw)


def as_json(call: tuple[world.Function, dict]) -> str:
    return json.dumps({"name": call[0].name, "parameters": call[1]}, ensure_ascii=False)


def as_code(call: tuple[world.Function, dict]) -> str:
    values = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call[1].items())
    return f"{call[0].name}({values})"


def as_tag(call: tuple[world.Function, dict]) -> str:
    return f"<call>{call[0].name} {json.dumps(call[1], ensure_ascii=False)}</call>"


def in_words(call: tuple[world.Function, dict]) -> str:
    values = " and ".join(f"{name} {world.as_words(value)}" for name, value in call[1].items())
    return f"Use {call[0].name} with {values}."


NOTATIONS = {  # what the system turn asks for -> how one call is written
    "Answer with JSON.": as_json,
    "Answer with code.": as_code,
    "Answer with call tags.": as_tag,
    "Answer in words.": in_words,
}
REMARKS = [
    "You are a helpful assistant.", "You answer questions with the help of the tools below.",
    "Read the question, choose what fits, and keep to the form that is asked for.",
    "The history of the conversation and the results of earlier calls may help.",
    "When no tool fits, say so; do not make up an answer.",
    "Give the name of the function and its parameters.",
    "Be short and exact.",
]  # fmt: skip


def first_steps(rng: random.Random, functions: list[world.Function]) -> list[Turn]:
    """One function of one or two parameters, and some questions: short, to find out what is copied."""
    function = rng.choice(functions) if rng.random() < 0.5 else made_up_function(rng)
    parameters = (*function.required, *function.optional)[: rng.randint(1, 2)]
    function = world.Function(function.name, function.action, function.thing, parameters)
    notation = rng.choice(list(NOTATIONS))
    turns = [("system", f"{notation}\n{json.dumps(function.schema(), ensure_ascii=False)}")]
    for _ in range(rng.randint(1, 4)):
        calls = [(function, world.draw_arguments(rng, function))]
        turns += question_and_answer(rng, world.Request(world.ask(rng, calls), calls), notation)
    return turns


def tool_use(rng: random.Random, functions: list[world.Function]) -> list[Turn]:
    """System with schemas, then some questions, calls and results."""
    kind = rng.choice(
        ["simple", "simple", "multiple", "multiple", "multiple", "parallel", "parallel_multiple", "none"]
    )
    pool = rng.sample(functions, 12) + [made_up_function(rng) for _ in range(12)]
    drawn, tools = world.request(rng, pool, kind)
    notation = rng.choice(list(NOTATIONS))
    separators = rng.choice([(", ", ": "), (",", ":")])
    schemas = [json.dumps(f.schema(), ensure_ascii=False, separators=separators) for f in tools]
    listed = rng.choice(
        ["Tools: [" + ",\n".join(schemas) + "]", "\n".join(schemas), "Functions:\n" + "\n".join(schemas)]
    )
    parts = [notation, listed, *rng.sample(REMARKS, rng.randint(0, 4))]
    rng.shuffle(parts)
    turns = [("system", "\n".join(parts))]
    for _ in range(rng.randint(2, 7)):
        turns += question_and_answer(rng, drawn, notation)
        others = pool if rng.random() < 0.1 else tools
        calls = [(f, world.draw_arguments(rng, f)) for f in rng.choices(others, k=rng.choice([1, 1, 2]))]
        fitting = all(f in tools for f, _ in calls)
        drawn = world.Request(world.ask(rng, calls), calls if fitting else [])
    return turns


def question_and_answer(rng: random.Random, drawn: world.Request, notation: str) -> list[Turn]:
    turns = [("user", drawn.question)]
    if not drawn.calls:
        return [*turns, ("assistant", "No tool fits this question.")]
    turns.append(("assistant", "\n".join(NOTATIONS[notation](call) for call in drawn.calls)))
    if rng.random() < 0.4:
        results = [world.draw_result(rng) for _ in drawn.calls]
        text = json.dumps(results if len(results) > 1 else results[0], ensure_ascii=False)
        told = "; ".join(world.result_in_words(result) for result in results)
        turns += [("ipython", text), ("assistant", told[0].upper() + told[1:] + ".")]
    return turns


def rewrite(rng: random.Random, functions: list[world.Function]) -> list[Turn]:
    """Some functions, and calls of them in one notation to be written in another."""
    tools = [
        rng.choice(functions) if rng.random() < 0.5 else made_up_function(rng)
        for _ in range(rng.randint(1, 3))
    ]
    tools = list({f.name: f for f in tools}.values())
    wanted, *given = rng.sample(list(NOTATIONS), 4)
    turns = [
        ("system", "\n".join([f"Rewrite the calls. {wanted}", *(json.dumps(f.schema()) for f in tools)]))
    ]
    for _ in range(rng.randint(2, 6)):
        calls = [(f, world.draw_arguments(rng, f)) for f in rng.choices(tools, k=rng.choice([1, 1, 2]))]
        notation = rng.choice(given)
        turns.append(
            ("user", rng.choice([" ", "; ", "\n"]).join(NOTATIONS[notation](call) for call in calls))
        )
        turns.append(("assistant", "\n".join(NOTATIONS[wanted](call) for call in calls)))
    return turns


def fill_in(rng: random.Random, functions: list[world.Function]) -> list[Turn]:
    """Field names, sentences that give their values in any order, and the values as JSON."""
    parameters = [world.PARAMETERS[name] for name in rng.sample(list(world.PARAMETERS), rng.randint(1, 4))]
    parameters += [made_up_parameter(rng) for _ in range(rng.choice([0, 0, 1]))]
    turns = [("system", "Fields: " + ", ".join(p.name for p in parameters))]
    for _ in range(rng.randint(2, 5)):
        values = {p.name: p.draw(rng) for p in parameters}
        said = [p.spoken(rng, values[p.name]) for p in parameters]
        rng.shuffle(said)
        opening = rng.choice(["", "It is ", "I want it ", "Please do it "])
        text = opening + rng.choice([" ", ", "]).join(said) + "."
        turns += [("user", text), ("assistant", json.dumps(values, ensure_ascii=False))]
    return turns


def choose(rng: random.Random, functions: list[world.Function]) -> list[Turn]:
    """Names of functions, some alike in action or in what they are about, and which a question needs."""
    pool = rng.sample(functions, 3) + [made_up_function(rng) for _ in range(rng.randint(0, 3))]
    first = pool[0]
    alike = [f for f in functions if (f.thing == first.thing) != (f.action == first.action)]
    pool += rng.sample(alike, min(len(alike), rng.randint(0, 2)))
    pool = list({f.name: f for f in pool}.values())
    rng.shuffle(pool)
    lines = [f"{f.name}: {f.action} the {f.thing}" if rng.random() < 0.3 else f.name for f in pool]
    turns = [("system", "Functions:\n" + "\n".join(lines))]
    for function in rng.choices(pool, k=rng.randint(3, 6)):
        question = world.ask(rng, [(function, world.draw_arguments(rng, function))])
        turns += [("user", question), ("assistant", function.name)]
    return turns


def look_up(rng: random.Random, functions: list[world.Function]) -> list[Turn]:
    """A flat JSON object and questions about its keys."""
    names = rng.sample(list(world.PARAMETERS), rng.randint(3, 8))
    if rng.random() < 0.5:
        names = [*names[:2], *(world.made_up_word(rng) for _ in names[2:])]
    table = {
        name: world.PARAMETERS[name].draw(rng) if name in world.PARAMETERS else world.made_up_word(rng)
        for name in names
    }
    turns = [("system", json.dumps(table, ensure_ascii=False))]
    for name in rng.sample(names, min(4, len(names))):
        turns += [
            ("user", f"What is the {name}?"),
            ("assistant", json.dumps(table[name], ensure_ascii=False)),
        ]
    return turns


# ------------------------------------------------------------------------------------------- token ids


def encode_turns(turns: list[Turn], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Ids in the Llama frame, and which of them are trained."""
    ids, trained = [BEGIN], [False]
    for word, text in turns:
        header = [HEADER, *tokenizer.encode(word).ids, HEADER_END, *tokenizer.encode("\n\n").ids]
        body = [*tokenizer.encode(text).ids, TURN_END]
        ids += header + body
        trained += [False] * len(header) + [word == "assistant"] * len(body)
    return ids, trained


def copying(rng: random.Random) -> tuple[list[int], list[bool]]:
    """Random tokens, then pieces of them in any order; what follows the first tokens of a piece is trained.

    A piece's distance from where it was copied says nothing, so only looking for the same tokens helps. Where
    few different tokens recur in several places, two or three of them have to be matched.
    """
    different, given = rng.choice([(VOCABULARY, 1), (VOCABULARY, 1), (200, 2), (40, 3)])
    tokens = rng.choices(range(len(SPECIAL_TOKENS), VOCABULARY), k=different)
    text = rng.choices(tokens, k=rng.randint(20, 120))
    ids, trained = [BEGIN, *text], [False] * (len(text) + 1)
    for _ in range(rng.randint(4, 10)):
        size = rng.randint(given + 2, given + 10)
        start = rng.randrange(len(text) - size)
        ids += text[start : start + size]
        trained += [False] * given + [True] * (size - given)
    return ids, trained


def document(rng: random.Random, tokenizer: Tokenizer, functions: list[world.Function], level: int):
    """Level 1: short exercises; level 2: all of it."""
    kinds = [fill_in, choose, first_steps, look_up, rewrite, tool_use]
    kind = rng.choices(kinds, [6, 4, 10, 0, 0, 0] if level == 1 else [3, 3, 0, 1, 3, 10])[0]
    return encode_turns(kind(rng, functions), tokenizer)


def look_back(model: Transformer, strength: float = 40.0) -> None:
    """Start the first layer's heads with a gaze: head h looks h + 1 tokens back, the last one anywhere.

    With the key's bias along e and the query's along e turned back by h + 1 positions, rotary attention is
    highest at that distance, whatever the tokens are. To find what followed the same token earlier, a model
    needs such heads first, and takes long to find them by itself.
    """
    config, attention = model.config, model.model.layers[0].self_attn
    half = config.head_dim // 2
    frequency = config.rope_theta ** (-torch.arange(half) / half)
    with torch.no_grad():
        for head in range(config.num_attention_heads - 1):
            rows = slice(head * config.head_dim, (head + 1) * config.head_dim)
            angle = -(head + 1) * frequency
            attention.q_proj.bias[rows] = strength**0.5 * torch.cat((angle.cos(), angle.sin()))
            attention.k_proj.bias[rows] = strength**0.5 * torch.cat((torch.ones(half), torch.zeros(half)))


def train_tokenizer(functions: list[world.Function]) -> Tokenizer:
    """Words, single digits and runs of everything else are never merged with each other.

    So `get_weather` and `the weather` share the token of `weather`, and a number is copied digit by digit.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\p{Lu}?\p{Ll}+|\p{L}|\p{N}|[^\p{L}\p{N}]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL_TOKENS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    rng = random.Random(1)
    texts = (text for _ in range(4000) for _, text in tool_use(rng, functions))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


# --------------------------------------------------------------------------------------------- training


def batch(
    rng: random.Random, tokens: int, copies: float, *args
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Documents up to `tokens`: ids [T], targets [T] (the next token where trained, else -100), lengths."""
    ids, targets, lengths = [], [], []
    while len(ids) < tokens:
        document_ids, trained = copying(rng) if len(ids) < copies * tokens else document(rng, *args)
        ids += document_ids
        targets += [i if t else -100 for i, t in zip(document_ids[1:], trained[1:], strict=True)] + [-100]
        lengths.append(len(document_ids))
    return torch.tensor(ids), torch.tensor(targets), lengths


@torch.no_grad()
def exact_turns(model: Transformer, tokenizer: Tokenizer, functions: list[world.Function], n: int) -> float:
    """Share of first answers whose every token is the most probable: what greedy decoding gets right."""
    rng, right = random.Random(7), 0
    for _ in range(n):
        kind = rng.choice(["simple", "multiple", "multiple", "parallel", "parallel_multiple"])
        drawn, tools = world.request(rng, functions, kind)
        notation = rng.choice(list(NOTATIONS))
        system = notation + "\n" + "\n".join(json.dumps(f.schema(), ensure_ascii=False) for f in tools)
        answer = "\n".join(NOTATIONS[notation](call) for call in drawn.calls)
        ids, trained = encode_turns(
            [("system", system), ("user", drawn.question), ("assistant", answer)], tokenizer
        )
        ids = torch.tensor(ids)
        guessed = model(ids)[:-1].argmax(-1)
        right += bool((guessed == ids[1:])[torch.tensor(trained[1:])].all())
    return right / n


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tiny.pretrain", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the checkpoint")
    parser.add_argument("--steps", type=number(int, 1), default=11000, help="of the training")
    parser.add_argument("--tokens", type=number(int, 1), default=4096, help="of one step, at least")
    parser.add_argument("--lr", type=number(float, 0), default=3e-3, help="highest learning rate")
    args = parser.parse_args(argv)

    functions = [f for f in world.all_functions() if not world.held_out(f.thing)]
    unseen = [f for f in world.all_functions() if world.held_out(f.thing)]
    tokenizer = train_tokenizer(functions)
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.output / "tokenizer.json"))
    model = Transformer.from_config(ModelConfig.from_dict(CONFIG), torch.float32, "cpu", seed=0)
    model.requires_grad_(True)
    look_back(model)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [model.model.embed_tokens.weight, *(p for p in model.parameters() if p.ndim < 2)]
    optimizers = [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]

    rng, average, start = random.Random(0), 0.0, time.time()
    for step in range(1, args.steps + 1):
        for optimizer in optimizers:  # up, constant, then down over the second half
            optimizer.param_groups[0]["lr"] = args.lr * min(
                1.0, step / 100, 2 * (1 - step / args.steps) + 0.02
            )
        level = (step > 500) + (step > 850)
        ids, targets, lengths = batch(rng, args.tokens, 0.2 if level else 1.0, tokenizer, functions, level)
        hidden = model.hidden_states(ids, lengths=lengths)
        trained = targets != -100
        loss = F.cross_entropy(model.lm_head(hidden[trained]), targets[trained])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average = 0.99 * average + 0.01 * loss.item() if step > 1 else loss.item()
        if step % 100 == 0:
            minutes = (time.time() - start) / 60
            print(f"step {step}  level {level}  loss {average:.4f}  {minutes:.1f} min", flush=True)
        if step % 500 == 0 or step == args.steps:
            save(model, args.output)
            print(f"exact, unseen functions: {exact_turns(model, tokenizer, unseen, 200):.3f}", flush=True)


def save(model: Transformer, folder: Path) -> None:
    """config.json, generation_config.json, model.safetensors as any Hugging Face checkpoint."""
    tensors = {name: t for name, t in model.state_dict().items() if name != "lm_head.weight"}  # tied
    write_whole(folder / "model.safetensors", lambda path: save_file(tensors, path, {"format": "pt"}))
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    generation = {"bos_token_id": BEGIN, "eos_token_id": CONFIG["eos_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run(main))
