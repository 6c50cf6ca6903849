import subprocess
import sys

import pytest
import torch
from small_pairs import pair_table, seq2seq, words

from slimsweep.data.corpora import Corpora
from slimsweep.data.references import Reference
from slimsweep.evaluation.bleu import Bleu
from slimsweep.evaluation.generated_text import Written

TEXTS = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
TARGETS = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]


def scores(tiny, **settings):
    rows = [Reference(row, "s", target) for row, target in enumerate(TARGETS, 1)]
    return Bleu(**settings).scores(tiny, rows, Written(TEXTS, [[]] * 3, 0, 0, 0.0))


def command_line(tmp_path, *arguments) -> list[str]:
    """Lines that sacrebleu's own command prints."""
    for name, lines in (("texts", TEXTS), ("targets", TARGETS)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "targets"), "-i", str(tmp_path / "texts"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_equals_sacrebleus_own_command_with_its_signature(tmp_path, tiny):
    found = scores(tiny)
    printed = command_line(tmp_path, "-m", "bleu", "chrf", "-f", "text", "-w", "4")
    for field in ("bleu", "chrf"):
        assert f"= {found[field].value:.4f}" in printed
        assert found[field].protocol.removeprefix("sacrebleu ") in printed
    assert found["bleu"].protocol.startswith("sacrebleu nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_case_and_tokenizer_are_settings(tiny):
    assert "case:lc" in scores(tiny, lowercase=True)["bleu"].protocol
    assert "tok:char" in scores(tiny, tokenize="char")["bleu"].protocol
    assert scores(tiny, tokenize="char")["bleu"].value != scores(tiny)["bleu"].value
    with pytest.raises(ValueError, match="bleu.tokenize='mecab': give 13a"):
        Bleu(tokenize="mecab")


def test_statistics_of_the_segments_add_up_to_the_score_also_of_chosen_ones(tiny):
    from sacrebleu.metrics import BLEU, CHRF

    from slimsweep.evaluation.outcomes import Outcomes

    chosen = [0, 0, 2]
    for field, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        score = scores(tiny)[field]
        outcomes = Outcomes(score.rows, score.aggregate, "items")
        assert outcomes.score() == pytest.approx(score.value)
        expected = metric.corpus_score([TEXTS[place] for place in chosen], [[TARGETS[place] for place in chosen]]).score
        assert outcomes.score(torch.tensor(chosen).numpy()) == pytest.approx(expected)


def test_measures_what_an_encoder_decoder_writes(tmp_path):
    model = seq2seq("marian", tmp_path).load(torch.float32, torch.device("cpu"))
    metric = Bleu(path=pair_table(tmp_path, words(6)), max_new_tokens=6)
    measurement = metric.measure(model, Corpora(None, tmp_path))
    assert set(measurement.values) == {one.field for one in metric.quantities()}
    assert 0 <= measurement.values["bleu"] < 5 and measurement.outcomes["bleu"].values.shape == (6, 10)
