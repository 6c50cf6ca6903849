import pytest
from small_datasets import SHORT, small_dataset

from slimsweep.data.preparation.tokenization import SPECIAL_TOKENS, encode, packed, train_tokenizer
from slimsweep.errors import CorpusError
from slimsweep.models.batches import IGNORED
from slimsweep.models.sources.byte_tokenizer import byte_tokenizer

TEXTS = [f"the cat number {number} sat on the mat" for number in range(30)]


def test_a_trained_tokenizer_has_its_size_and_gives_texts_back(tmp_path):
    from transformers import AutoTokenizer

    train_tokenizer(TEXTS, 290, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 290
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS.values()] == [0, 1, 2, 3, 4]
    ids = tokenizer("the cat \u00e9")["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id == 2 and tokenizer.unk_token_id not in ids  # every byte has a token
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat \u00e9"
    assert len(ids) < len("the cat") and tokenizer.pad_token_id == 1


def test_a_size_that_the_text_cannot_fill_is_told_the_largest(tmp_path):
    with pytest.raises(CorpusError, match="tokenizer=5000: the training split has text for 2[0-9][0-9] tokens"):
        train_tokenizer(["ab ab"], 5000, tmp_path)


def test_documents_are_packed_into_windows_with_an_end_after_each():
    tokens = packed(["ab", "cde"], byte_tokenizer(), 3)  # a b </s> | c d e | </s>
    end = byte_tokenizer().eos_token_id
    a, b = byte_tokenizer()("ab")["input_ids"]
    assert [one["input_ids"] for one in tokens.examples] == [[a, b, end], byte_tokenizer()("cde")["input_ids"]]
    assert tokens.counts == {"tokens after the last window": 1}


def test_long_texts_of_a_classifier_are_cut_and_counted(tmp_path):
    dataset = small_dataset("labelled", tmp_path, {"train": SHORT["labelled"]}, tokenizer="x", tokens=3)
    tokens = encode([{"text": "good", "label": 1}, {"text": "bad", "label": 0}], dataset, "train", byte_tokenizer())
    assert [(len(one["input_ids"]), one["label"]) for one in tokens.examples] == [(3, 1), (3, 0)]
    assert tokens.counts == {"rows cut": 1}
    dataset = small_dataset("labelled", tmp_path, {"train": SHORT["labelled"]}, tokenizer="x", tokens=3, form="causal")
    assert "label" not in encode([{"text": "good", "label": 1}], dataset, "train", byte_tokenizer()).examples[0]


def test_long_pairs_are_left_out_of_training_and_cut_elsewhere(tmp_path):
    dataset = small_dataset("pairs", tmp_path, {"train": SHORT["pairs"]}, tokenizer="x", tokens=3)
    rows = [{"source": "abcd", "target": "x"}, {"source": "ab", "target": "y"}]
    train, test = (encode(rows, dataset, split, byte_tokenizer()) for split in ("train", "test"))
    assert len(train.examples) == 1 and train.counts == {"rows left out": 1}
    first = byte_tokenizer()("abd")["input_ids"]  # the last token, which ends a text, stays
    assert test.examples[0]["input_ids"] == first and len(test.examples) == 2 and test.counts == {"rows cut": 1}


@pytest.mark.parametrize("kind", ["conversations", "problems"])
def test_only_answers_are_labels(kind, tmp_path):
    dataset = small_dataset(kind, tmp_path, {"train": SHORT[kind]}, tokenizer="x", tokens=60)
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    row = {"messages": turns} if kind == "conversations" else {"question": "1+1?", "answer": "2\n#### 2"}
    tokens = encode(
        [row, {name: value * 60 if isinstance(value, str) else value for name, value in row.items()}],
        dataset,
        "train",
        byte_tokenizer(),
    )
    labels = [one for one in tokens.examples[0]["labels"] if one != IGNORED]
    assert byte_tokenizer().decode(labels).replace("</s>", "").strip() in ("2", "2\n#### 2")
    assert tokens.counts == {"rows left out": int(kind == "problems")}
