import pytest
import torch
from small_classifier import small_classifier
from small_datasets import prepared_by_hand
from small_pairs import seq2seq

from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.dataset import dataset_named
from slimsweep.data.prepared_calibration import PreparedCalibration

ROWS = {
    "tinystories": [{"text": " ".join(str(37 * number + place) for place in range(20))} for number in range(40)],
    "sst2": [{"text": f"film {number}", "label": number % 2} for number in range(40)],
    "multi30k": [{"source": f"cat {number}", "target": f"Katze {number}"} for number in range(40)],
}


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(None, tmp_path)


def calibration_on(name, corpora, **settings) -> PreparedCalibration:
    prepared_by_hand(dataset_named(name), corpora, train=ROWS[name], validation=ROWS[name][:1])
    return PreparedCalibration(dataset=name, **{"sequences": 8, "tokens": 32} | settings)


def test_windows_are_drawn_by_the_seed_without_replacement(corpora, tiny_source):
    calibration = calibration_on("tinystories", corpora)
    assert calibration.faults(tiny_source, corpora) == []
    drawn = calibration.sample(tiny_source, corpora, 0)["input_ids"]
    assert drawn.shape == (8, 32) and len(drawn.unique(dim=0)) == 8
    assert torch.equal(drawn, calibration.sample(tiny_source, corpora, 0)["input_ids"])
    assert not torch.equal(drawn, calibration.sample(tiny_source, corpora, 1)["input_ids"])


def test_a_classifier_gets_the_labels_of_its_rows(tmp_path, corpora):
    batch = calibration_on("sst2", corpora).sample(small_classifier(tmp_path), corpora, 0)
    assert len(batch["input_ids"]) == 8 and set(batch["labels"].tolist()) <= {0, 1}


def test_an_encoder_decoder_gets_pairs(tmp_path, corpora):
    calibration, source = calibration_on("multi30k", corpora), seq2seq("bart", tmp_path)
    assert calibration.faults(source, corpora) == []
    batch = calibration.sample(source, corpora, 0)
    assert len(batch["decoder_input_ids"]) == 8 and "attention_mask" in batch
    assert calibration.hidden_bytes(4) >= 4 * (batch["input_ids"].numel() + batch["decoder_input_ids"].numel())


def test_what_cannot_be_drawn_is_told_before_weights_load(corpora, tiny_source):
    assert (
        "add calibration.dataset=NAME" in PreparedCalibration(dataset=None, sequences=1).faults(tiny_source, corpora)[0]
    )
    few = calibration_on("tinystories", corpora, sequences=4000)
    assert "set calibration.sequences=" in few.faults(tiny_source, corpora)[0]
    with pytest.raises(ValueError, match=r"calibration\.sequences=0"):
        PreparedCalibration(dataset="tinystories", sequences=0)
