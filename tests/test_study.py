"""evidence/plan.py and evidence/study.py: which runs there are, what a result holds, a small study whole."""

import json
from argparse import Namespace

import pytest

from cli import UserError
from evidence import plan, study
from evidence.plan import RATES, Run, sweep


def result(loss: float) -> dict:
    """As of a run with that cross-entropy."""
    return {"files": {"dev-unseen": {"sums": [[loss * 4, 0, 4, 0], [0, 0, 0, 0], [loss * 4, 0, 4, 0]]}}}


def fill(results: dict, method: str, flags: str, losses: dict[float, float]) -> None:
    for lr, loss in losses.items():
        results[Run("sweep", method, flags, lr, plan.SWEEP_SEED, "dev").name] = result(loss)


def test_a_sweep_goes_on_where_its_best_is_at_an_end():
    results, grid = {}, RATES[3:6]
    assert [run.lr for run in sweep("MoR", "", grid, results)] == [3e-4, 1e-3, 3e-3]
    fill(results, "MoR", "", {3e-4: 3, 1e-3: 2, 3e-3: 1})
    runs = sweep("MoR", "", grid, results)
    assert [run.lr for run in runs] == [3e-4, 1e-3, 3e-3, 1e-2] and plan.chosen_rate(runs, results) is None
    fill(results, "MoR", "", {1e-2: 2})
    runs = sweep("MoR", "", grid, results)
    assert len(runs) == 4 and plan.chosen_rate(runs, results) == 3e-3
    fill(results, "MoR", "", {3e-4: 0.5})
    assert [run.lr for run in sweep("MoR", "", grid, results)][0] == 1e-4
    fill(results, "MoR", "", {lr: 1 + i for i, lr in enumerate(RATES)})
    assert plan.chosen_rate(sweep("MoR", "", grid, results), results) == RATES[0]  # there is no further rate


def test_a_run_that_diverged_is_never_the_best():
    results = {}
    fill(results, "MoR", "", {1e-3: 5, 3e-3: 6})
    results[Run("sweep", "MoR", "", 1e-2, plan.SWEEP_SEED, "dev").name] = {"failed": "loss nan"}
    assert plan.chosen_rate(sweep("MoR", "", RATES[4:7], results), results) is None  # wants 3e-4 first
    fill(results, "MoR", "", {3e-4: 7})
    assert plan.chosen_rate(sweep("MoR", "", RATES[4:7], results), results) == 1e-3


def test_methods_are_compared_at_their_own_rates_and_other_seeds():
    results = {}
    assert {run.table for run in plan.tiny(results)} == {"sweep"}
    for method, flags in plan.TINY.items():
        best = 3e-4 if method == "full" else 3e-3
        fill(results, method, flags, {lr: abs(lr - best) + 1 for lr in RATES})
    runs = list(plan.tiny(results))
    compared = [run for run in runs if run.table == "Table 6"]
    assert {(run.method, run.lr) for run in compared} == {
        (method, 3e-4 if method == "full" else 3e-3) for method in plan.TINY
    }
    assert {run.seed for run in compared} == {1, 2, 3, 4, 5} and plan.SWEEP_SEED not in plan.SEEDS
    assert {run.tested_on for run in compared} == {"test"}
    assert {run.table for run in runs} == {"sweep", "Table 4", "Table 5", "Table 6", "Table 7"}
    fill(results, "executor alone", plan.role_flags("executor", 4), {lr: abs(lr - 1e-2) + 1 for lr in RATES})
    figure = [run for run in plan.tiny(results) if run.table == "Fig. 4"]
    assert len(figure) == 3 * 5 * 2 and {run.lr for run in figure} == {1e-2}


def test_names_tell_runs_apart():
    results = {}
    for method, flags in plan.TINY.items():
        fill(results, method, flags, {lr: abs(lr - 3e-3) for lr in RATES})
    names = [run.name for run in plan.tiny(results)]
    assert len(set(names)) == len(names)


def test_missing_runs_by_a_text(monkeypatch, tmp_path):
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    first, second = study.missing("smoke", "")
    assert study.missing("smoke", "lora") == [second] and study.missing("smoke", "absent") == []
    study.write_result({"study": "smoke"}, tmp_path / "smoke" / f"{first.name}.json")
    assert study.missing("smoke", "") == [second]


def test_a_fault_of_a_run_ends_the_study(monkeypatch, tmp_path):
    args = Namespace(study="smoke", work=tmp_path, model=None)
    monkeypatch.setattr(study, "train_command", lambda *args: ["false"])
    with pytest.raises(UserError, match="exit code 1"):
        study.perform(next(plan.smoke({})), args, 1)
    monkeypatch.setattr(study, "call", lambda *args: "error: step 3: loss nan, wanted finite numbers; ...")
    assert "finite" in study.perform(next(plan.smoke({})), args, 1)["failed"]


def test_the_commands_of_a_real_model(tmp_path):
    args = Namespace(study="smollm2", work=tmp_path, model=tmp_path / "base", bfcl="bfcl-eval")
    base, *sweeps = plan.smollm2({})
    assert base.method == "base" and {run.tested_on for run in sweeps} == {"dev"} and len(sweeps) == 9
    of_base = study.evaluate_command(base, args, "bfcl")
    assert of_base[of_base.index("--adapter") + 1] == ""
    adapter, full = (next(run for run in sweeps if run.method == name) for name in ("LoRA", "full"))
    command = study.train_command(adapter, args)
    assert command[command.index("--model") + 1] == str(args.model) and "--resume" not in command
    of_adapter, of_full = (study.evaluate_command(run, args, "bfcl") for run in (adapter, full))
    assert of_adapter[of_adapter.index("--model") + 1] == str(args.model)
    assert of_adapter[of_adapter.index("--adapter") + 1] == str(tmp_path / adapter.name)
    assert of_full[of_full.index("--model") + 1] == str(tmp_path / full.name)
    assert of_full[of_full.index("--adapter") + 1] == ""
    (tmp_path / adapter.name).mkdir()
    (tmp_path / adapter.name / "training_state.safetensors").touch()
    assert study.train_command(adapter, args)[-1] == "--resume"


def test_the_commands_of_maths(tmp_path):
    args = Namespace(study="maths", work=tmp_path, model=tmp_path / "base", data=tmp_path / "test.jsonl")
    (base,) = plan.maths({})
    command = study.evaluate_command(base, args, "maths")
    assert command[2:5] == ["math", "--data", str(args.data)] and "--python" in command
    assert command[command.index("--adapter") + 1] == "" and command[command.index("--limit") + 1] == "100"
    with pytest.raises(UserError, match="--data"):
        study.prepare(Namespace(**vars(args) | {"data": None}))


def test_the_mix_has_development_records_apart(tmp_path):
    lines = (study.ROOT / "bfcl.jsonl").read_bytes().splitlines(keepends=True)
    for name, chosen in (("single", lines[:200]), ("irrelevant", lines[200:220])):
        (tmp_path / name).write_bytes(b"".join(chosen))
    paths = dict(
        single=tmp_path / "single",
        irrelevant=tmp_path / "irrelevant",
        bfcl=str(tmp_path / "bfcl"),
        model=tmp_path,
    )
    (tmp_path / "bfcl").mkdir()
    question = {"id": "simple_0", "question": [[{"role": "user", "content": "Who?"}]], "function": []}
    (tmp_path / "bfcl" / "BFCL_v3_simple.json").write_text(json.dumps(question) + "\n")
    study.prepare(Namespace(study="smollm2", work=tmp_path / "work", **paths))
    mixed = [(tmp_path / "work" / f"{name}.jsonl").read_bytes().splitlines() for name in ("dev", "train")]
    assert len(mixed[0]) == 150 and len(mixed[1]) > 50 and not set(mixed[0]) & set(mixed[1])
    with pytest.raises(UserError, match="--model"):
        study.prepare(Namespace(study="smollm2", work=tmp_path / "other", **paths | {"model": None}))


def test_verdicts_by_category(tmp_path):
    lines = [
        {"suite": "bfcl"},
        *({"category": c, "valid": v} for c, v in [("a", True), ("b", None), ("a", False)]),
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert study.verdicts(tmp_path / "r.jsonl") == {"a": [True, False], "b": [None]}


def test_a_small_study_to_its_end(monkeypatch, tmp_path):
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    study.main(["smoke", "--work", str(tmp_path / "work"), "--jobs", "2"])
    results = study.read_results("smoke")
    assert [found["method"] for found in results.values()] == ["LoRA", "MoR"]
    for found in results.values():
        assert found["steps"] == 3 and found["course"]["step"] == [1, 2, 3]
        assert list(found["files"]) == ["test-unseen", "test-seen"]
        of_file = found["files"]["test-unseen"]
        assert len(of_file["exact"]) == 2 and sum(of_file["reasoner_turns"]) >= 4
        assert 0 < of_file["sums"][0][2] and of_file["levenshtein"]["executor"][1] >= 1
    assert [found["trained_parameters"] for found in results.values()] == [1198080, 1197568]
    assert ["similarity" in found for found in results.values()] == [False, True]
    assert study.missing("smoke", "") == []


def test_the_test_files_share_no_question_with_the_others(tmp_path):
    study.prepare_tiny("tiny", tmp_path)
    asked = {}
    for file in tmp_path.glob("*.jsonl"):
        records = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        asked[file.stem] = {
            turn["content"] for r in records for turn in r["trajectory"] if turn["role"] == "user"
        }
    others = asked["train"] | asked["dev-unseen"] | asked["dev-seen"]
    assert not others & (asked["test-unseen"] | asked["test-seen"])
    first = (tmp_path / "test-unseen.jsonl").read_bytes()
    study.prepare_tiny("tiny", tmp_path)
    assert (tmp_path / "test-unseen.jsonl").read_bytes() == first
