import pytest
from made_up import with_outcomes
from recommended import FIELD, choose, four, model

from slimsweep.records.store import Store
from slimsweep.reports.recommendation_text import command, plain, reasons, step, text


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def records():
    return four()


def test_the_price_of_the_next_unit_is_told(store, records):
    found = choose(store, records, max_bytes="5MiB")
    assert step(found, 1).endswith(
        "perplexity wikitext2 10 (-1, which is -0.0833 for each further unit of weights MiB)."
    )
    assert "The next smaller one on the front is rtn: weights MiB 3 (-1), perplexity wikitext2 14 (+3" in step(
        found, -1
    )
    assert step(choose(store, records, max_bytes="20MiB"), 1).startswith("More weights MiB buys nothing")


def test_a_lead_of_few_items_may_be_noise(store, records):
    with_outcomes(store, records[1], FIELD, [11.0, 10.0, 12.0, 11.5])
    with_outcomes(store, records[2], FIELD, [11.2, 9.9, 12.1, 11.4])
    found = choose(store, records, max_bytes="5MiB")
    assert "may be noise" in " ".join(reasons(found)) and found.lead.items == 4
    assert "no outcomes" in " ".join(reasons(choose(store, records[:2] + records[3:], max_bytes="5MiB")))


def test_a_real_lead_is_called_so(store, records):
    with_outcomes(store, records[1], FIELD, [11.0 + place / 100 for place in range(40)])
    with_outcomes(store, records[2], FIELD, [13.0 + place / 90 for place in range(40)])
    assert "It is really worse" in " ".join(reasons(choose(store, records, max_bytes="5MiB")))
    small = choose(store, records[1:3], max_bytes="5MiB")
    assert plain(small, None)["difference_to_runner_up"]["is_real"] is True


def seeds(name: str, perplexities: list[float], mebibytes: float):
    return [
        model(name, value, mebibytes) | {"seed": seed, "key": f"{name}{seed}".encode().hex().ljust(64, "0")}
        for seed, value in enumerate(perplexities)
    ]


def test_of_several_seeds_the_tested_one_is_named_and_must_agree_with_the_means(store):
    best, second = seeds("gptq", [11.0, 10.0, 12.0], 4), seeds("rtn", [10.5, 14.0, 13.0], 4)
    with_outcomes(store, best[0], FIELD, [11.0 + place / 100 for place in range(40)])
    with_outcomes(store, second[0], FIELD, [10.5 + place / 90 for place in range(40)])
    found = choose(store, best + second, max_bytes="5MiB")
    said = " ".join(reasons(found))
    assert found.choice.title == "gptq (mean of 3 seeds)" and found.is_lead_opposite
    assert "The difference in seed 0 of each contradicts the means" in said and "really" not in said
    assert plain(found, None)["difference_to_runner_up"]["is_real"] is False
    with_outcomes(store, second[0], FIELD, [13.0 + place / 90 for place in range(40)])
    said = " ".join(reasons(choose(store, best + second, max_bytes="5MiB")))
    assert "It is really worse in seed 0 of each" in said


def test_the_command_exports_the_choice(store, records, tmp_path):
    found = choose(store, records, max_bytes="5MiB")
    key = records[1]["key"]
    assert command(found, None) == f"slim export {key[:16]} --to hf --output exports/{key[:8]}"
    assert command(found, tmp_path).endswith(f" --outputs {tmp_path}")
    assert command(found, None) in text(found, None)
    assert command(found, tmp_path / "my runs").endswith(f" --outputs '{tmp_path}/my runs'")
    records[0]["config"]["model"] = {"shape": {"model_type": "llama"}}
    assert " --to gguf " in command(choose(store, records, max_bytes="20MiB"), None)  # the dense model


def test_plain_values_hold_every_number(store, records):
    found = plain(choose(store, records, max_bytes="5MiB"), None)
    assert found["choice"]["key"] == records[1]["key"] and found["choice"]["weight_bytes"] == 4 * 2**20
    assert [one["title"] for one in found["front"]] == ["rtn", "gptq", "dense"]
    assert found["limits"] == [{"limit": "--max-bytes 5MiB", "field": "weight_bytes", "bound": 5 * 2**20}]
    assert found["next_larger"]["title"] == "dense" and found["difference_to_runner_up"] is None
