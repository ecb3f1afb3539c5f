"""stabletoolbench.py: names and schemas, and whole runs against a server on this machine that fails."""

import json
from pathlib import Path

import pytest
from api_server import ApiServer, misbehave
from test_evaluate import cells, command, lines_of, one_thread, play  # noqa: F401

import evaluate
import tools.virtual
from cli import UserError
from evaluation import stabletoolbench
from evaluation.stabletoolbench import GROUPS, api_name, clean, function_of, query_of, read_queries
from evaluation.toolbench_answers import converted
from sources.toolbench import GIVE_UP

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "stabletoolbench"

# ---- names and schemas ----


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("GetRain", "getrain"), ("/v1/{id}/Rain Today!", "v1_id_rain_today"), ("3-day", "get_3_day"),
        ("a^b", "a^b"), ("天气 now", "天气_now"), ("__x__", "x"), ("!!!", ""), ("id", "id"),
    ],
)  # fmt: skip
def test_clean_names(name, cleaned):
    assert clean(name) == cleaned and api_name(name) == ("is_id" if name == "id" else cleaned)


def parameter(name: str, kind: str = "STRING", default: object = "", text: str = "What.") -> dict:
    return {"name": name, "type": kind, "description": text, "default": default}


def api(name: str = "Rain", required: tuple = (), optional: tuple = (), **changes) -> dict:
    given = {"category_name": "Data, Maps", "tool_name": "Atlas 2", "api_name": name, "api_description": ""}
    return given | {"required_parameters": [*required], "optional_parameters": [*optional]} | changes


def test_a_function_of_an_api():
    required, optional = parameter("id", "NUMBER", 7), parameter("Day", "DATE (YYYY)", "", "é" * 300)
    made = function_of(api("Rain", [required], [optional], api_description=" Rain tells Rain. " + "x" * 300))
    about = "rain_for_atlas_2 tells rain_for_atlas_2. " + "x" * 300
    head = 'This is the subfunction for tool "atlas_2", you can use this tool.'
    assert made["name"] == "rain_for_atlas_2"
    assert made["description"] == f'{head}The description of this function is: "{about[:256]}"'
    assert made["parameters"] == {
        "type": "object",
        "properties": {
            "is_id": {"type": "integer", "description": "What.", "example_value": 7},
            "day": {"type": "string", "description": "é" * 256},
        },
        "required": ["is_id"],
        "optional": ["day"],
    }
    assert function_of(api())["description"] == head


def test_optional_parameters_are_lost_without_a_required_one():
    made = function_of(api("Rain", [], [parameter("day")]))
    assert made["parameters"] == {"type": "object", "properties": {}, "required": [], "optional": []}


def test_long_names_keep_their_end_and_the_first_of_two_is_called():
    made = function_of(api("Rain " * 20))
    assert len(made["name"]) == 64 and made["name"].endswith("_for_atlas_2")
    row = {"query_id": 3, "query": "Rain?", "api_list": [api(), api(category_name="Other")]}
    query = query_of(row, "G1_tool")
    assert query.places == {"rain_for_atlas_2": ("Data, Maps", "atlas_2", "rain")}
    assert len(query.functions) == 2 and [tool["name"] for tool in query.tools] == ["rain_for_atlas_2"]


@pytest.mark.skipif(not SHARED.exists(), reason="no published data at hand")
def test_published_queries_and_functions():
    """Lists are those of the recorded runs whose query is at hand; places are those that were asked."""
    queries = [query for group in GROUPS for query in read_queries(SHARED / "solvable_queries", group)]
    assert len(queries) == 99 and sum(len(query.functions) for query in queries) == 529
    known = {query.text: query for query in queries}
    equal = 0
    for path in sorted(SHARED.glob("run_example/answer/*/*/*.json")):
        made = json.loads(path.read_bytes())["answer_generation"]
        if made["query"] in known:
            assert json.dumps(known[made["query"]].functions) == json.dumps(made["function"][:-1])
            equal += 1
    assert equal == 2
    places = {name: place for query in queries for name, place in query.places.items()}
    asked = [json.loads(line) for line in (SHARED / "virtual_server_exchanges.jsonl").open(encoding="utf-8")]
    found = [row for row in asked if row["function"] in places]
    assert len(found) > 20
    for row in found:
        request = row["request_rebuilt"]
        assert places[row["function"]] == (request["category"], request["tool_name"], request["api_name"])


# ---- runs ----


@pytest.fixture(scope="module")
def folders(folders) -> tuple[Path, Path]:
    """The random model of conftest.py with more positions, and its adapter."""
    config = json.loads((folders[0] / "config.json").read_text()) | {"max_position_embeddings": 9000}
    (folders[0] / "config.json").write_text(json.dumps(config))
    return folders


def write_queries(folder: Path, count: int = 3) -> Path:
    """Two sets; of the first a query is not in the list of ids."""
    for group in GROUPS:
        rows = []
        if group in GROUPS[:2]:
            rain = api("Rain", [parameter("city")], [parameter("days", "NUMBER")])
            rows = [
                {"query_id": 10 + i, "query": f"Rain in {i}?", "api_list": [rain, api("Clock")]}
                for i in range(count)
            ]
        for place, value in (
            ("test_instruction", rows),
            ("test_query_ids", {str(10 + i): 0 for i in range(9)}),
        ):
            if group == GROUPS[0] and place == "test_query_ids":
                value.pop("12")
            (folder / place).mkdir(parents=True, exist_ok=True)
            (folder / place / f"{group}.json").write_text(json.dumps(value))
    return folder


def call(city: str, name: str = "rain_for_atlas_2") -> str:
    arguments = json.dumps({"city": city})
    return f"[unused11]Action: {name} Action-Input: {arguments}[unused12]"


ACT, STOP = "I see.\nNext: executor", "I see.\nNext: summarizer"
TRIED = [ACT, call("0"), STOP, GIVE_UP]
SCRIPTS = [
    [ACT, call("0"), STOP, "Rain."],
    [*TRIED, ACT, call("1"), STOP, "Sun."],  # goes back to the root
    [ACT, call("0", "rain"), ACT, "No call.", STOP, "None."],
    TRIED * 2,
    [ACT, call("0"), ACT, call("7"), STOP, "Odd."],
]


def world(request: dict) -> dict:
    city = json.loads(request["tool_input"])["city"]
    return {"error": "Message error..." if city == "7" else "", "response": f"rain in {city}"}


def test_a_run_its_table_and_its_raw_files(play, tmp_path):  # noqa: F811
    data, path, raw = write_queries(tmp_path / "data"), tmp_path / "exchanges.jsonl", tmp_path / "raw"
    with ApiServer(world) as server:
        flags = ("--server", server.url, "--responses", path, "--raw", raw)
        (header, *lines), printed = play("stabletoolbench", data, SCRIPTS, *flags)
    assert [line["id"] for line in lines] == [10, 11, 10, 11, 12], "one is not in the list of ids"
    assert [line["status"] for line in lines] == ["answered", "answered", "answered", "gave_up", "answered"]
    assert [line["second_children"] for line in lines] == [0, 1, 0, 1, 0]
    assert [line["codes"] for line in lines] == [
        {"0": 1, "3": 1}, {"0": 2, "3": 1, "4": 1}, {"1": 2, "3": 1}, {"0": 2, "4": 2},
        {"0": 1, "3": 1, "11": 1},
    ]  # fmt: skip
    assert {row["request"]["tool_input"]["city"] for row in lines_of(path)} == {"0", "1", "7"}
    assert cells(printed, "all") == "5 80.0% 37.6% to 96.4% 1 3.2 0.4 1.8 33%".split()
    assert header["header"]["method"] == "dfs" and header["header"]["max_depth"] == 12
    files = sorted(raw.glob("*/*.json"))
    assert [str(file.relative_to(raw)) for file in files][0] == f"{GROUPS[0]}/10_DFS_woFilter_w2.json"
    answers = {(line["group"], line["id"]): line["answer"] for line in lines}
    for file in files:
        key = file.parent.name, int(file.name.split("_")[0])
        assert answers.pop(key) == converted(json.loads(file.read_bytes()))
    assert not answers

    (tmp_path / "stabletoolbench.jsonl").rename(tmp_path / "served.jsonl")
    (_, *again), _ = play("stabletoolbench", data, SCRIPTS, "--responses", path)
    assert again == lines, "the file alone says the same"


def test_a_chain_gives_up_for_good(play, tmp_path):  # noqa: F811
    data, path = write_queries(tmp_path / "data"), tmp_path / "none.jsonl"
    path.write_text("")
    scripts = [*SCRIPTS[:1], TRIED, *SCRIPTS[2:3], [ACT, call("0")] * 3 + [ACT, call("0")], SCRIPTS[4]]
    (_, *lines), printed = play("stabletoolbench", data, scripts, "--responses", path, "--method", "cot")
    assert [line["status"] for line in lines] == ["answered", "gave_up", "answered", "no_answer", "answered"]
    assert lines[3]["depth"] == 12 and lines[3]["messages"] == 4 and lines[3]["codes"] == {"12": 4}
    assert "CoT" in lines[0]["method"] and "nodes deep" in printed


def test_thirty_percent_of_faults_end_in_the_same_lines(play, tmp_path, monkeypatch):  # noqa: F811
    data, results = write_queries(tmp_path / "data"), []
    monkeypatch.setattr(tools.virtual.Server.__init__, "__defaults__", ("", 8, 0.001, 0.2))
    for share in (0.0, 0.3):
        with ApiServer(world, misbehave(15, share), slow=0.4) as server:
            path = tmp_path / f"{share}.jsonl"
            _, printed = play("stabletoolbench", data, SCRIPTS, "--server", server.url, "--responses", path)
            assert (len(server.attempts) < sum(server.attempts.values())) is (share > 0)
        output = tmp_path / "stabletoolbench.jsonl"
        results.append((lines_of(output)[1:], printed))
        output.unlink()
    assert results[0] == results[1]


def random_run(folders, data: Path, output: Path, *flags) -> list:
    model = ["--model", folders[0], "--adapter", folders[1]]
    more = ["--max-new-tokens", 9, "--max-depth", 6, "--batch", 3, *flags]
    return ["stabletoolbench", "--data", data, "--output", output, *model, *more]


def test_a_killed_run_ends_in_the_same_bytes(folders, tmp_path, capsys):
    data, path = write_queries(tmp_path / "data"), tmp_path / "none.jsonl"
    path.write_text("")
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    for second in ("prompt", "sample"):
        flags = ("--responses", path, "--second", second)
        whole.unlink(missing_ok=True)
        assert command(*random_run(folders, data, whole, *flags)) == 0
        content = whole.read_bytes()
        lines = content.splitlines(keepends=True)
        assert len(lines) == 6
        for left in (b"".join(lines[:3]), b"".join(lines[:4]) + lines[4][:30]):
            cut.write_bytes(left)
            assert command(*random_run(folders, data, cut, *flags)) == 0
            assert cut.read_bytes() == content
    path.write_text(json.dumps({"request": {}, "reply": "x"}) + "\n")
    capsys.readouterr()
    assert command(*random_run(folders, data, whole, *flags)) == 2
    assert "exchanges: got" in capsys.readouterr().err, "another world gives another file"


def test_refusals(folders, tmp_path, capsys):
    data = write_queries(tmp_path / "data")
    argv = random_run(folders, data, tmp_path / "x.jsonl")
    assert command(*argv) == 2 and "wanted it, or --server" in capsys.readouterr().err
    assert command(*argv, "--responses", tmp_path / "nowhere") == 2
    assert "name the file of exchanges" in capsys.readouterr().err
    with ApiServer(world) as server:
        pass
    broken = data / "test_instruction" / f"{GROUPS[0]}.json"
    for text, told in (
        ("{}", "got {}"),
        ('[{"query_id": 10}]', "query 0: KeyError('api_list')"),
        ("[", "read"),
    ):
        broken.write_text(text)
        assert command(*argv, "--server", server.url) == 2 and told in capsys.readouterr().err
    with pytest.raises(UserError, match="wanted the folder solvable_queries"):
        read_queries(tmp_path, GROUPS[0])


def test_the_suite_is_wired(capsys):
    assert command("stabletoolbench", "--help") == 0
    assert "virtual API server" in " ".join(capsys.readouterr().out.split())
    assert evaluate.SUITES["stabletoolbench"] is stabletoolbench
