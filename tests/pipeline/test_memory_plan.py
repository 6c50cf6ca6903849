import pytest
from conftest import TINY_SHAPE

from slimsweep.pipeline.memory_plan import PROCESS_BYTES, Part, lines, parse_budget


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), ("6GiB", 6 * 2**30), ("6 GiB", 6 * 2**30), ("0.5GB", 500_000_000), ("800MB", 800_000_000)],
)
def test_a_budget_has_a_unit(given, expected):
    assert parse_budget(given) == expected


@pytest.mark.parametrize("given", [6, "6", "six GiB", "0GB", "-1GB", "6gib", True])
def test_what_is_no_budget_says_what_is(given):
    with pytest.raises(ValueError, match="such as 6GiB or 800MB"):
        parse_budget(given)


def test_lines_end_with_the_sum_and_the_budget():
    found = lines([Part("a", 2**30), Part("longer", 2**29)], 2**31)
    assert found == [
        "  a                  1.00 GiB",
        "  longer             0.50 GiB",
        "  together, about    1.50 GiB",
        "  memory_budget      2.00 GiB",
    ]


@pytest.fixture
def folder(tiny, tmp_path):
    from slimsweep.models.storage.saved_model import save

    save(tiny, tmp_path / "saved")
    return tmp_path / "saved"


def run(slimsweep, folder, *words):
    shared = ["model=local", f"model.path={folder}", "tracker=none", "dtype=float32", "calibration.tokens=64"]
    small = ["evaluation.tasks=[]", "evaluation.context_tokens=64", "evaluation.memory_tokens=64"]
    small += ["evaluation.prompt_tokens=8"]
    return slimsweep(*shared, *small, *words)


def test_a_job_within_its_budget_says_its_plan_and_gives_the_same_weights(slimsweep, folder):
    import json
    from pathlib import Path

    answer = run(slimsweep, folder, "technique=sparsegpt", "memory_budget=3GiB")
    assert answer.status == 0, answer.err
    assert "what will be resident" in answer.out
    assert "memory_budget" in answer.out and "3.00 GiB" in answer.out
    mapped = json.loads(Path(answer.out.splitlines()[-1]).read_text())
    assert mapped["peak_memory_bytes"] is None and "memory_budget" in mapped["reasons"]["peak_memory_bytes"]
    Path(answer.out.splitlines()[-1]).unlink()
    held = json.loads(Path(run(slimsweep, folder, "technique=sparsegpt").out.splitlines()[-1]).read_text())
    for name in ("key", "weights_digest", "perplexity_movie_reviews", "nonzero_parameters", "checkpoint_bytes"):
        assert held[name] == mapped[name], name


def test_what_does_not_fit_or_needs_the_whole_model_is_refused_with_the_plan(slimsweep, folder):
    answer = run(slimsweep, folder, "technique=wanda", "memory_budget=100MB")
    assert answer.status == 1
    assert "memory_budget is less than this experiment holds at once" in answer.err
    assert "weights outside the blocks" in answer.err
    whole = (
        "heads",
        "smoothquant",
        "squeezellm",
        "half",
        "llmcompressor",
        "magnitude technique.magnitude.scope=global",
    )
    for words in whole:
        technique, *knobs = words.split()
        answer = run(slimsweep, folder, f"technique={technique}", *knobs, "memory_budget=3GiB")
        assert f"technique.{technique}: memory_budget works block by block" in answer.err, answer.err
    assert "model.weights=meta" in run(slimsweep, folder, "model.weights=meta", "memory_budget=3GiB").err
    assert "give a number with its unit" in run(slimsweep, folder, "memory_budget=3").err


def test_halted_forwards_are_planned_for_all_sequences(slimsweep, folder):
    words = ["technique=wanda", "calibration.sequences=8000", "memory_budget=1500MB"]
    assert "is less than" not in run(slimsweep, folder, *words, "dry_run=true").err
    refused = run(slimsweep, folder, *words, "dry_run=true", "technique.wanda.inputs=sequential").err
    assert "memory_budget is less than this experiment holds at once" in refused


def test_a_plan_counts_what_a_llama_7b_holds():
    """By hand: 2 x 32000 x 4096 numbers and a norm outside; a block of 4 x 4096^2 + 3 x 4096 x 11008 and 2 norms."""
    from types import SimpleNamespace

    import torch

    from slimsweep.data.calibration import Calibration
    from slimsweep.evaluation.perplexity import Perplexity
    from slimsweep.models.sources.random import RandomModel
    from slimsweep.pipeline.memory_plan import plan
    from slimsweep.techniques.pruning.magnitude import Magnitude
    from slimsweep.techniques.pruning.sparsegpt import SparseGPT

    shape = TINY_SHAPE | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 2}
    shape |= {"vocab_size": 32000, "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False}
    model = RandomModel(name="llama", shape=shape, weights="meta", cache_dir="unused")
    experiment = SimpleNamespace(
        model=model,
        stages=[SimpleNamespace(technique=Magnitude(ratio=0.5))],
        metrics={"perplexity": Perplexity(corpora="wikitext2")},
        needs_calibration=False,
        calibration=None,
        resolved_device="cpu",
        resolved_dtype="bfloat16",
        memory_budget=2**33,
    )
    found = {part.what: part.bytes for part in plan(experiment)}
    assert found["Python and its libraries"] == PROCESS_BYTES
    assert found["weights outside the blocks"] == 2 * (2 * 32000 * 4096 + 4096)
    assert found["one block"] == 2 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096)
    assert found["compressing one block"] == min(torch.get_num_threads(), 7) * 16 * 4096 * 11008
    experiment.stages, experiment.needs_calibration = [SimpleNamespace(technique=SparseGPT(ratio=0.5))], True
    experiment.calibration = Calibration(corpus="wikitext2", sequences=8, tokens=512, draw="joined")
    found = {part.what: part.bytes for part in plan(experiment)}
    assert found["a forward of the calibration text"] == 2 * 2048 * (12 * 4096 + 3 * 11008)
    sums = 4 * (6 * 4096**2 + 11008**2)
    layers = [16 * 4096 * 11008 + 12 * width**2 for width in (11008, 4096, 4096)] + 4 * [28 * 4096**2]
    assert found["compressing one block"] == sums + sum(layers[: torch.get_num_threads()])  # a core each
