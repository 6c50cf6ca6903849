import pytest
import torch
from g2p import tokenizer_of, write_g2p
from small_pairs import pair_table, seq2seq, words

from slimsweep.data.corpora import Corpora
from slimsweep.data.references import Reference
from slimsweep.evaluation.edit_errors import UNITS, EditErrors, writes_text
from slimsweep.evaluation.generated_text import Written
from slimsweep.models.sources.local import LocalModel

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("unit", "rate"),
    # kitten for sitting: 3 of 7 characters, 1 of 1 word; an equal text: 0 of 8 characters, 0 of 3 words
    [("character", 3 / 15), ("word", 1 / 4)],
)
def test_a_case_that_is_counted_by_hand(unit, rate, tiny):
    rows = [Reference(1, "s", "sitting"), Reference(2, "s", "as it is")]
    scores = EditErrors(unit=unit).scores(tiny, rows, Written(["kitten", "as it is"], [[], []], 0, 0, 0.0))
    assert scores["edit_error_rate"].value == pytest.approx(rate)
    assert scores["exact_match"].value == 0.5
    assert scores["exact_match"].rows.tolist() == [0, 1]


def test_tokens_are_compared_without_special_ones(tmp_path):
    model = seq2seq("bart", tmp_path).load(torch.float32, CPU)
    rows = [Reference(1, "s", "ab")]
    for text, errors in (("ab", 0), (" ab\n", 0), ("a", 1)):
        scores = EditErrors().scores(model, rows, Written([text], [[]], 0, 0, 0.0))
        assert scores["edit_error_rate"].value == errors / 2
        assert scores["exact_match"].value == (errors == 0)


def test_a_decoders_text_is_encoded_as_its_target_is(tiny):
    # the model wrote " cat" and the stop after it, whose tokens are others than those of "cat" alone
    ids = tiny.tokenizer(" cat\n", add_special_tokens=False)["input_ids"]
    for unit in UNITS:
        scores = EditErrors(unit=unit).scores(tiny, [Reference(1, "s", "cat")], Written(["cat"], [ids], 0, 0, 0.0))
        assert (scores["edit_error_rate"].value, scores["exact_match"].value) == (0, 1)


def test_ids_are_compared_where_a_tokenizer_writes_no_text(tiny):
    tiny.tokenizer = tokenizer_of("____abcd", "____wxyz")
    assert not writes_text(tiny.tokenizer)
    ids = tiny.tokenizer(text_target="wx")["input_ids"]
    for written, right in ((ids, 1), (ids[:-2], 0)):
        text = tiny.tokenizer.decode(written, skip_special_tokens=True)
        scores = EditErrors().scores(tiny, [Reference(1, "s", "wx")], Written([text], [written], 0, 0, 0.0))
        assert scores["exact_match"].value == right
        assert scores["edit_error_rate"].value == (1 - right) / 2


def test_measures_what_a_model_writes(tmp_path):
    model = seq2seq("t5", tmp_path).load(torch.float32, CPU)
    metric = EditErrors(path=pair_table(tmp_path, words(6)), max_new_tokens=6)
    measurement = metric.measure(model, Corpora(None, tmp_path))
    assert set(measurement.values) == {one.field for one in metric.quantities()}
    for field in ("exact_match", "edit_error_rate"):
        assert measurement.outcomes[field].score() == pytest.approx(measurement.values[field])


def test_a_trained_model_spells_most_words_as_the_dictionary_does(shared, tmp_path):
    folder, path = write_g2p(shared, tmp_path)
    model = LocalModel(path=str(folder), task="seq2seq_lm", cache_dir=str(tmp_path)).load(torch.float32, CPU)
    columns = {"source_column": "word", "target_column": "phonemes"}
    metric = EditErrors(path=str(path), **columns, split="held_out", max_pairs=120, max_new_tokens=40)
    values = metric.measure(model, Corpora(None, tmp_path)).values
    assert values["exact_match"] > 0.6
    assert 0 < values["edit_error_rate"] < 1 - values["exact_match"]
    assert values["edit_errors_cut_texts"] == 0
