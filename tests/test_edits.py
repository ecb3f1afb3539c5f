"""edits.py: what a change of calls does to the texts round them."""

from test_verify import BALI, ROME, make

from stages.edits import replaced


def test_replaced_touches_its_own_query_only():
    record = make(([BALI], None))
    record["trajectory"] += make(([ROME], None))["trajectory"]
    paths = [f"trajectory.{i}.content" for i in (1, 3, 4, 6, 8, 9)]
    record["source"] = {"completed": paths, "missing": []}
    new = replaced(record, 7, [BALI])
    assert [i for i, turn in enumerate(new["trajectory"]) if turn.get("content") == ""] == [6, 8, 9]
    assert new["source"] == {"completed": paths[:3], "missing": paths[3:], "rewritten": paths[3:]}
    assert new["trajectory"][7]["calls"] == [BALI] and record["trajectory"][7]["calls"] == [ROME]
    record["source"]["scores"] = {"overall": 9, "steps": dict.fromkeys(paths, 8)}
    source = replaced(record, 2, [ROME])["source"]
    assert source["completed"] == paths[3:] and source["missing"] == paths[:3] == source["rewritten"]
    assert source["scores"] == {"overall": 9, "steps": dict.fromkeys(paths[3:], 8)}  # given to other texts
