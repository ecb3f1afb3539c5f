"""The openai package's client against serve.py, plain and streaming. Skipped where the package is not."""

import json

import pytest
from conftest import ANSWER, CLOCK, WEATHER
from live_server import live
from test_serve import RECORDED, says, wrapped

from formats.frames import load_frame
from tools.mock import Tools

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def server(model, folders):
    with live(model, load_frame(folders[0]), says) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    host, port = server.address
    with openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="any", max_retries=0) as client:
        yield client


def plain(client, **options):
    return client.chat.completions.create(model="any", **options).choices[0].message


def streamed(client, **options):
    with client.chat.completions.stream(model="any", **options) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion().choices[0].message


@pytest.mark.parametrize("ask", [plain, streamed])
def test_a_conversation_by_its_client(client, server, ask):
    """Messages go back as the client made them, and the caches show that no token changed on the way."""
    tools = Tools([WEATHER, CLOCK], responses=RECORDED)
    conversation, rounds = [{"role": "user", "content": "Weather in Bali?"}], 0
    while True:
        message = ask(client, messages=conversation, tools=wrapped(WEATHER, CLOCK))
        conversation.append(message)
        if not message.tool_calls:
            break
        rounds += 1
        for call in message.tool_calls:
            result = tools.call(call.function.name, json.loads(call.function.arguments))
            conversation.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert message.content == ANSWER and message.reasoning_content == "That answers it."
    assert rounds == 2
    before, after = (ids for ids, _ in server.parrot.ids[-2:])
    assert after[: len(before)] == before


def test_usage_models_and_errors(client):
    answer = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=False
    )
    assert answer.model == "m" and answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert len(client.models.list().data) == 1
    stream = client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    assert [chunk.usage.total_tokens for chunk in stream if chunk.usage]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], n=2)
    assert caught.value.param == "n"
