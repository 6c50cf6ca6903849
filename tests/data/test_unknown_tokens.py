import json

import pytest
from templated import with_template
from tokenizers import AddedToken

from slimsweep.data.unknown_tokens import texts_fault
from slimsweep.models.sources.byte_tokenizer import byte_tokenizer
from slimsweep.models.storage.saved_model import save

MARKS = ("<|im_start|>", "<|im_end|>", "<|a|>")
LINE = "Once upon a time there was a little dog who liked to run in the park. "
SMALL = ["evaluation.context_tokens=64", "evaluation.prompt_tokens=8", "evaluation.memory_tokens=64"]
SMALL += ["calibration.tokens=32", "calibration.sequences=2", "tracker=none", "dtype=float32"]
REFUSAL = "the tokenizer has ids up to 260, the model has embeddings for 258"


@pytest.fixture
def folder(tiny, tmp_path):
    """The tiny model of 258 tokens with a tokenizer of three more."""
    tiny.tokenizer = byte_tokenizer()
    tiny.tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    assert tiny.tokenizer.encode(MARKS[0]) == [258]
    save(tiny, tmp_path / "saved")
    return tmp_path / "saved"


def written(path, *documents: str) -> str:
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return str(path)


@pytest.mark.parametrize("asked", ["corpus", "document", "joined", "task"])
def test_a_text_with_tokens_beyond_the_embeddings_is_refused_before_the_start(asked, slimsweep, folder, tmp_path):
    marked = written(tmp_path / "marked.jsonl", LINE * 4, LINE + "<|im_end|>" + LINE * 4)
    plain = written(tmp_path / "plain.jsonl", LINE * 4, LINE * 8)
    data = tmp_path / "data" / "zeroshot" / "boolq"
    data.mkdir(parents=True)
    passages = [LINE, LINE + ("<|im_end|>" if asked == "task" else "")]
    rows = [{"question": "is it", "passage": passage, "answer": True} for passage in passages]
    (data / "validation.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    corpus, calibration = (marked if asked == kind else plain for kind in ("corpus", asked))
    draw = asked if asked in ("document", "joined") else "document"
    words = [f"evaluation.corpora=[{{name: mine, path: {corpus}}}]", "evaluation.tasks=[boolq]"]
    words += ["technique=wanda", "calibration=text", f"calibration.draw={draw}"]
    words += [f"calibration.path={calibration if asked == draw else plain}", f"data_dir={tmp_path}/data"]
    answer = slimsweep("model=local", f"model.path={folder}", *words, *SMALL)
    assert answer.status == 1
    names = {"corpus": "mine", "task": "task boolq"}
    assert f"{names.get(asked, 'calibration text text')} holds '<|im_end|>' (id 259)" in answer.err
    assert REFUSAL in answer.err and "model.resize_token_embeddings(261)" in answer.err
    assert "One fault; nothing was started" in answer.err


def test_texts_without_such_tokens_run(slimsweep, folder, tmp_path):
    """The windows that are read decide: a token after the last of them is no fault."""
    text = written(tmp_path / "late.jsonl", LINE * 4 + "<|a|>" + LINE * 4)
    plain = written(tmp_path / "plain.jsonl", LINE * 4)
    words = [f"evaluation.corpora=[{{name: mine, path: {text}}}]", "evaluation.max_windows=3", "evaluation.tasks=[]"]
    words += ["technique=wanda", "calibration=text", f"calibration.path={plain}"]
    answer = slimsweep("model=local", f"model.path={folder}", *words, *SMALL)
    assert answer.status == 0, answer.err


def test_a_tokenizer_that_begins_every_text_with_such_a_token_fits_no_text():
    tokenizer = with_template(byte_tokenizer(), "<s> $A")
    assert texts_fault("text", ["a"], tokenizer, 258) is None
    assert "text holds '<s>' (id 256)" in texts_fault("text", ["a"], tokenizer, 256)


def test_tokens_of_the_vocabulary_itself_are_found_too():
    tokenizer, soft_hyphen = byte_tokenizer(), "a\u00adb"
    assert max(tokenizer.encode(soft_hyphen)) == 255
    assert "(id 255)" in texts_fault("text", ["plain", soft_hyphen], tokenizer, 255)
    assert texts_fault("text", ["plain"], tokenizer, 255) is None
