import importlib

import pytest
import torch
from small_pairs import pair_table, seq2seq, words

from slimsweep.data.corpora import Corpora
from slimsweep.evaluation import wordnet
from slimsweep.evaluation.meteor import Meteor, meteor

needs_wordnet = pytest.mark.skipif(not wordnet.version(), reason="needs WordNet's files: make wordnet")


@needs_wordnet
def test_nltks_documented_example():
    module = importlib.import_module("nltk.translate.meteor_score")
    text = "It is a guide to action which ensures that the military always obeys the commands of the party"
    targets = [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ]
    assert round(module.meteor_score([one.split() for one in targets], text.split()), 4) == 0.6944
    assert round(max(meteor(target, text) for target in targets), 4) == 0.6944


@needs_wordnet
def test_words_match_by_form_stem_and_synonym_whatever_their_case():
    # One match in one chunk of one word: F is 1, and the penalty 0.5 * 1 ** 3.
    assert meteor("Car", "auto") == meteor("walks", "walked") == meteor("Tree", "tree") == 0.5
    assert meteor("tree", "automobile") == meteor("tree", "") == 0


@needs_wordnet
def test_wordnets_version_is_part_of_protocol_and_identity(tmp_path):
    model = seq2seq("bart", tmp_path).load(torch.float32, torch.device("cpu"))
    corpora, metric = Corpora(None, tmp_path), Meteor(path=pair_table(tmp_path, words(4)), max_new_tokens=4)
    measurement = metric.measure(model, corpora)
    assert f":WordNet {wordnet.version()}:" in measurement.protocols["meteor"]
    assert metric.digests(corpora)["wordnet"] == wordnet.version()
    assert measurement.outcomes["meteor"].score() == pytest.approx(measurement.values["meteor"])


def test_absent_files_are_a_fault_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(wordnet, "version", lambda: "")
    metric = Meteor(path=pair_table(tmp_path, words(4)), max_new_tokens=4)
    (fault,) = metric.faults(seq2seq("bart", tmp_path), Corpora(None, tmp_path))
    assert "make wordnet" in fault
