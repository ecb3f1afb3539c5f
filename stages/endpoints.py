"""The flags of a command that asks a model at an endpoint, and the endpoint that they describe."""

import argparse
from contextlib import ExitStack
from pathlib import Path

import cli
from tools.endpoint import Endpoint, read_key
from tools.journal import Journal

# URL, model, variable of the key
OPENAI = ("https://api.openai.com/v1", "gpt-4o", "OPENAI_API_KEY")
DEEPSEEK = ("https://api.deepseek.com/v1", "deepseek-chat", "DEEPSEEK_API_KEY")


def add_model(
    parser: argparse.ArgumentParser, title: str, prefix: str, usual: tuple[str, str, str], without: str
) -> None:
    """usual: URL, model, variable of the key. without: what happens with an empty name."""
    url, model, variable = usual
    price = cli.number(float, 0)
    add = parser.add_argument_group(title).add_argument
    add(f"--{prefix}base-url", default=url, metavar="URL", help="of an OpenAI-compatible server")
    add(f"--{prefix}model", default=model, metavar="NAME", help=f"its name there; {without}")
    help = "environment variable that holds the key; may be unset for a server that wants none"
    add(f"--{prefix}key-variable", default=variable, metavar="VAR", help=help)
    help = "for some models it must be 1"
    add(f"--{prefix}temperature", type=cli.number(float, 0, 2), default=0.0, metavar="T", help=help)
    help = "of a million tokens of prompts, to tell the cost"
    add(f"--{prefix}price-in", type=price, default=0.0, metavar="P", help=help)
    help = "of a million tokens of answers"
    add(f"--{prefix}price-out", type=price, default=0.0, metavar="P", help=help)


def add_asking(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("asking").add_argument
    help = "show the first N prompts and what it would cost, ask nothing; 0: go on"
    add("--dry-run", type=cli.number(int, 0), default=0, metavar="N", help=help)
    add("--workers", type=cli.number(int, 1, 1024), default=16, metavar="N", help="rows at once")
    rate = cli.number(float, 0.01, zero=True)
    add("--rate", type=rate, default=0.0, metavar="R", help="requests a minute; 0: no limit")
    add(
        "--timeout",
        type=cli.number(float, 0.01, 1e6),
        default=180.0,
        metavar="S",
        help="of one try, in seconds",
    )
    help = "of a request that fails for a time (429, 5xx, no reply)"
    add("--tries", type=cli.number(int, 1, 100), default=8, metavar="N", help=help)
    help = "before the second try, in seconds; doubled before each further one"
    add("--backoff", type=cli.number(float, 0, 1e6), default=1.0, metavar="S", help=help)
    add("--max-tokens", type=cli.number(int, 0), default=4096, metavar="N", help="of one answer; 0: not sent")
    help = "answers so far, JSON Lines; without it, a file beside the output"
    add("--journal", type=Path, metavar="FILE", help=help)


def open_endpoint(
    args: argparse.Namespace, prefix: str, journal: Journal, stack: ExitStack
) -> Endpoint | None:
    """The endpoint that flags with this prefix describe; None where the model is ''. Raises UserError."""

    def flag(name: str) -> object:
        return getattr(args, prefix + name)

    if not flag("model"):
        return None
    prices = (flag("price_in"), flag("price_out"))
    endpoint = Endpoint(
        flag("base_url"),
        flag("model"),
        journal,
        read_key(flag("key_variable")),
        temperature=flag("temperature"),
        max_tokens=args.max_tokens or None,
        workers=args.workers,
        rate=args.rate,
        tries=args.tries,
        backoff=args.backoff,
        read=args.timeout,
        total=args.timeout,
        prices=prices if any(prices) else None,
    )
    return stack.enter_context(endpoint)
