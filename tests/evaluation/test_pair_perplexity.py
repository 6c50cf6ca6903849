import math
from dataclasses import replace

import pytest
import torch
from family_shapes import ENCODER_DECODERS
from g2p import characters, phonemes_of, write_g2p
from small_pairs import pair_table, seq2seq, words

from slimsweep.data.corpora import Corpora
from slimsweep.data.pair_calibration import PairCalibration
from slimsweep.data.pairs import Pair
from slimsweep.evaluation.pair_perplexity import PairPerplexity
from slimsweep.models.sources.local import LocalModel

CPU = torch.device("cpu")


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(None, tmp_path)


def measured(metric, model, corpora) -> float:
    return metric.measure(model, corpora).values["pair_perplexity"]


def one_by_one(model, pairs, start: int) -> float:
    """The definition: each pair alone, without padding, by the loss of transformers itself."""
    total, count = 0.0, 0
    for source, target in pairs:
        labels = torch.tensor([model.tokenizer(text_target=target)["input_ids"]])
        shifted = torch.cat([torch.tensor([[start]]), labels[:, :-1]], dim=1)
        inputs = torch.tensor([model.tokenizer(source)["input_ids"]])
        with torch.no_grad():
            loss = model.module(input_ids=inputs, decoder_input_ids=shifted, labels=labels).loss
        total, count = total + loss.item() * labels.shape[1], count + labels.shape[1]
    return math.exp(total / count)


def held_out(pairs) -> list[tuple[str, str]]:
    return [(source, target) for source, target in pairs if Pair(0, source, target).is_held_out]


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_equals_one_pair_at_a_time_by_the_loss_of_transformers(family, tmp_path, corpora):
    model = seq2seq(family, tmp_path).load(torch.float32, CPU)
    pairs = words(60)
    metric = PairPerplexity(path=pair_table(tmp_path, pairs), batch_tokens=50)
    start = model.config.decoder_start_token_id
    assert measured(metric, model, corpora) == pytest.approx(one_by_one(model, held_out(pairs), start), rel=1e-5)


def test_equals_one_pair_at_a_time_on_trained_weights(shared, tmp_path, corpora):
    folder, path = write_g2p(shared, tmp_path)
    source = LocalModel(path=str(folder), task="seq2seq_lm", cache_dir=str(tmp_path))
    model = source.load(torch.float32, CPU)
    metric = PairPerplexity(
        path=str(path), source_column="word", target_column="phonemes", max_pairs=60, batch_tokens=300
    )
    assert metric.faults(source, corpora) == []
    pairs = sorted(held_out([(pair.source, pair.target) for pair in metric.read().pairs]), key=_hash)[:60]
    expected = one_by_one(model, pairs, start=1)
    assert measured(metric, model, corpora) == pytest.approx(expected, rel=1e-5)
    assert 1.0 < expected < 1.3


def _hash(pair) -> bytes:
    return Pair(0, *pair).source_digest


def test_the_trained_model_spells_most_words_as_the_dictionary_does(shared, tmp_path):
    folder, path = write_g2p(shared, tmp_path)
    model = LocalModel(path=str(folder), task="seq2seq_lm", cache_dir=str(tmp_path)).load(torch.float32, CPU)
    _, phonemes = characters(folder)
    pairs = PairPerplexity(path=str(path), source_column="word", target_column="phonemes").read().pairs[::100]
    batch = model.tokenizer([pair.source for pair in pairs], padding=True, return_tensors="pt")
    made = model.module.generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=40, do_sample=False
    )
    right = [phonemes_of(row, phonemes) == pair.target for row, pair in zip(made.tolist(), pairs, strict=True)]
    assert sum(right) / len(right) > 0.6


def test_batches_do_not_matter(tmp_path, corpora):
    model = seq2seq("bart", tmp_path).load(torch.float32, CPU)
    metric = PairPerplexity(path=pair_table(tmp_path, words(60)))
    alone, together = (measured(replace(metric, batch_tokens=tokens), model, corpora) for tokens in (1, 10**6))
    assert alone == pytest.approx(together, rel=1e-6)


def test_pairs_keep_what_each_contributed_in_the_order_of_the_metric(tmp_path, corpora):
    model = seq2seq("bart", tmp_path).load(torch.float32, CPU)
    metric = PairPerplexity(path=pair_table(tmp_path, words(60)))
    found = metric.measure(model, corpora)
    kept, pairs = found.outcomes["pair_perplexity"], metric._measured(model.tokenizer)
    assert kept.values[:, 1].tolist() == [len(pair.target) for pair in pairs]
    assert len(set(kept.values[:, 1])) > 1  # batches go by length
    start, texts = model.config.decoder_start_token_id, sorted(held_out(words(60)), key=_hash)
    each = [math.log(one_by_one(model, [pair], start)) for pair in texts]
    assert kept.values[:, 0] / kept.values[:, 1] == pytest.approx(each, rel=1e-4)
    assert kept.score() == pytest.approx(found.values["pair_perplexity"], rel=1e-12)


def test_a_uniform_models_perplexity_is_the_vocabulary_size(tmp_path, corpora):
    model = seq2seq("bart", tmp_path, tie_word_embeddings=False).load(torch.float32, CPU)
    model.module.lm_head.weight.zero_()
    assert measured(PairPerplexity(path=pair_table(tmp_path, words(40))), model, corpora) == pytest.approx(260)


def test_padding_counts_nowhere(tmp_path, corpora):
    """One pair much longer than the others changes no other pair's part, whatever the batch."""
    model = seq2seq("t5", tmp_path).load(torch.float32, CPU)
    short, long = words(30), ("b" * 90, "a" * 80)
    metric = PairPerplexity(path=pair_table(tmp_path, [*short, long]), split="all", batch_tokens=10**6)
    assert measured(metric, model, corpora) == pytest.approx(one_by_one(model, [*short, long], 0), rel=1e-5)


def test_what_is_measured_was_never_drawn(tmp_path, corpora):
    source, path = seq2seq("bart", tmp_path), pair_table(tmp_path, words(60))
    metric, tokenizer = PairPerplexity(path=path), source.tokenizer()
    drawable = len(words(60)) - len(held_out(words(60)))
    drawn = PairCalibration(path=path, sequences=drawable).sample(source, corpora, seed=0)
    rows = zip(drawn["input_ids"], drawn["attention_mask"], strict=True)
    ids = {tuple(row[mask.bool()].tolist()) for row, mask in rows}
    measured_ids = {tuple(pair.source) for pair in metric._measured(tokenizer)}
    assert len(ids) == drawable and measured_ids and not ids & measured_ids


def test_fewer_pairs_are_the_first_by_the_hash_of_their_source_whatever_the_files_order(tmp_path):
    tokenizer = seq2seq("bart", tmp_path).tokenizer()
    few = PairPerplexity(path=pair_table(tmp_path, words(60)), max_pairs=3)._measured(tokenizer)
    turned = PairPerplexity(path=pair_table(tmp_path, words(60)[::-1]), max_pairs=3)._measured(tokenizer)
    expected = sorted(held_out(words(60)), key=_hash)[:3]
    assert [pair.source for pair in few] == [tokenizer(source)["input_ids"] for source, _ in expected]
    assert [pair.source for pair in few] == [pair.source for pair in turned]


def test_the_protocol_tells_file_split_rows_and_limits(tmp_path, corpora):
    model = seq2seq("bart", tmp_path).load(torch.float32, CPU)
    metric = PairPerplexity(path=pair_table(tmp_path, words(60)), max_pairs=4, target_tokens=9)
    measurement = metric.measure(model, corpora)
    protocol = measurement.protocols["pair_perplexity"]
    assert protocol.startswith("split=sha256(source)%5=0:pairs=4:source<=any:target<=9:target token:tok=")
    assert protocol.endswith(f":sha={metric.digests(corpora)['pairs'][:8]}")
    assert set(measurement.values) == {one.field for one in metric.quantities()}
    assert "split=all" in replace(metric, split="all").measure(model, corpora).protocols["pair_perplexity"]


def test_faults_come_together_and_name_what_to_type(tmp_path, corpora, tiny_source):
    kind, file = PairPerplexity().faults(tiny_source, corpora)
    assert "measure text with +metric=perplexity" in kind
    assert "add evaluation.metrics.pair_perplexity.path=FILE" in file
    metric = PairPerplexity(path=pair_table(tmp_path, [("x" * 60, "y" * 70)]), split="all")
    assert len(metric.faults(seq2seq("bart", tmp_path), corpora)) == 2


def test_a_file_without_a_held_out_pair_is_a_fault(tmp_path, corpora):
    pairs = [pair for pair in words(8) if not Pair(0, *pair).is_held_out]
    metric, source = PairPerplexity(path=pair_table(tmp_path, pairs)), seq2seq("bart", tmp_path)
    (fault,) = metric.faults(source, corpora)
    assert "evaluation.metrics.pair_perplexity.split=all" in fault
    assert replace(metric, split="all").faults(source, corpora) == []


def test_logits_that_are_not_finite_have_a_reason(tmp_path, corpora):
    model = seq2seq("bart", tmp_path).load(torch.float32, CPU)
    model.module.lm_head.weight.fill_(math.nan)
    measurement = PairPerplexity(path=pair_table(tmp_path, words(30))).measure(model, corpora)
    assert measurement.values["pair_perplexity"] is None
    assert "undefined" in measurement.reasons["pair_perplexity"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"split": "test"}, "split='test': give held_out or all"), ({"max_pairs": 0}, "max_pairs=0: give a whole number")],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        PairPerplexity(**fields)


def test_plans_take_a_batch_or_one_long_pair():
    assert PairPerplexity(source_tokens=100, target_tokens=28).working_bytes(2) == 2 * 2048
    assert PairPerplexity(source_tokens=3000, target_tokens=28).working_bytes(2) == 2 * 3028
