import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT
from small_datasets import SHORT, small_dataset

from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation import prepare as module
from slimsweep.data.preparation.dataset import dataset_named
from slimsweep.data.preparation.prepare import prepare
from slimsweep.data.preparation.store import folders
from slimsweep.data.prepared import read_split
from slimsweep.data.rows import read_file
from slimsweep.errors import CorpusError, ModelError


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(tmp_path, tmp_path / "cache")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", SHORT)
def test_rows_of_every_kind_are_stored_with_their_features_and_found_again(kind, tmp_path, corpora):
    dataset = small_dataset(kind, tmp_path, {"train": SHORT[kind]})
    folder, is_new = prepare(dataset, corpora)
    rows = read_file(folder.split_path("train"))
    assert is_new and len(rows) == len(SHORT[kind]) == folder.card["splits"]["train"]["rows"]
    assert set(rows[0]) == {*dataset.standard_columns, *dataset.features}
    before = contents(folder.path)
    again, is_new = prepare(dataset, corpora)
    assert not is_new and again.key == folder.key and contents(again.path) == before
    assert {"card.json", "card.md", "train.parquet"} == set(before)


def test_another_setting_or_source_is_another_key_beside_the_first(tmp_path, corpora):
    first, _ = prepare(small_dataset("text", tmp_path, {"train": SHORT["text"]}), corpora)
    lower, _ = prepare(small_dataset("text", tmp_path, {"train": SHORT["text"]}, normalisation=["lowercase"]), corpora)
    other, _ = prepare(small_dataset("text", tmp_path, {"train": SHORT["text"][:2]}), corpora)
    assert (
        len({first.key, lower.key, other.key}) == 3
        and len(folders(small_dataset("text", tmp_path, {"train": SHORT["text"]}), corpora)) == 3
    )


def test_a_killed_preparation_leaves_nothing_to_read_and_the_next_one_is_whole(tmp_path, corpora):
    dataset = small_dataset("text", tmp_path, {"train": SHORT["text"], "test": [{"text": "t"}]})
    if not (child := os.fork()):
        write = module._write_rows

        def killed(rows, dataset, path):
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
            write(rows, dataset, path)

        module._write_rows = killed
        try:
            prepare(dataset, corpora)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    place = corpora.cache_dir / "prepared" / "mine"
    assert list(place.glob(".*.partial")) and folders(dataset, corpora) == []
    folder, is_new = prepare(dataset, corpora)
    assert is_new and not list(place.glob(".*.partial"))
    assert len(read_file(folder.split_path("train"))) == 3


def test_a_failed_preparation_leaves_nothing(tmp_path, corpora):
    dataset = small_dataset("text", tmp_path, {"train": SHORT["text"]}, filters={"words": [9, None]})
    with pytest.raises(CorpusError, match="no row is left"):
        prepare(dataset, corpora)
    assert [path.name for path in (corpora.cache_dir / "prepared" / "mine").iterdir()] == [".lock"]


SCRIPT = """
import sys
from pathlib import Path
from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.dataset import dataset_named
from slimsweep.data.preparation.prepare import prepare
dataset = dataset_named(sys.argv[1], ["tokenizer=300", "tokens=16", "made.validation=0.2"])
print(prepare(dataset, Corpora(None, Path(sys.argv[2])))[0].path)
"""


def test_two_processes_write_the_same_bytes(tmp_path):
    rows = [
        {"source": f"the cat {n} sees the dog {n % 7}", "target": f"die Katze {n} sieht {n % 5}"} for n in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / "mine.yaml"
    file.write_text(f"kind: pairs\nsplits: {{train: {{files: [{tmp_path / 'rows.jsonl'}]}}}}\n")
    processes = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(PROJECT / "src")}
        words = [sys.executable, "-c", SCRIPT, str(file), str(tmp_path / seed)]
        processes.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
    printed = [process.communicate()[0] for process in processes]
    first, second = (contents(Path(text.split()[-1])) for text in printed)
    assert first == second
    assert {"tokenizer/tokenizer.json", "tokens/train.parquet", "validation.parquet", "card.json"} <= set(first)


def test_conversations_of_slimorca(tmp_path, corpora):
    turns = [{"from": "system", "value": "Be short.", "weight": None}, {"from": "human", "value": "Hi", "weight": 0.0}]
    rows = [
        {"conversations": [*turns, {"from": "gpt", "value": f"answer  {number}", "weight": 1.0}]} for number in range(2)
    ]
    rows.append({"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": " "}]})
    rows += [
        {"conversations": [{"from": "human", "value": f"q {n}"}, {"from": "gpt", "value": "a"}]} for n in range(300)
    ]
    (tmp_path / "instruct").mkdir()
    text = "\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "instruct" / "slimorca.jsonl.gz").write_bytes(gzip.compress(text))
    folder, _ = prepare(dataset_named("slimorca"), corpora)
    train, held_out = (read_split("slimorca", split, corpora).rows for split in ("train", "validation"))
    assert len(train) + len(held_out) == 302 and held_out
    expected = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "answer 0"},
    ]
    assert {"messages": expected} in [*train, *held_out]
    empty = next(step for step in folder.card["steps"] if step["step"] == "empty")
    assert empty["before"]["train"] - empty["after"]["train"] == 1


def test_the_tokenizer_is_trained_on_the_training_split_alone(tmp_path, corpora):
    splits = {"train": [{"text": "ab ab ab cd cd"}], "test": [{"text": "xyxy xyxy xyxy xyxy"}]}
    folder, _ = prepare(small_dataset("text", tmp_path, splits, tokenizer=262), corpora)
    vocabulary = json.loads((folder.path / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert "ab" in vocabulary and not any("xy" in token for token in vocabulary)
    assert folder.card["tokenizer"]["size"] == 262
    assert read_file(folder.split_path("test"))[0]["tokens"] > read_file(folder.split_path("train"))[0]["tokens"]


def test_a_given_tokenizer_belongs_to_the_key_by_its_content(tmp_path, corpora):
    from slimsweep.data.preparation.tokenization import train_tokenizer

    dataset = small_dataset("text", tmp_path, {"train": SHORT["text"]}, tokenizer=str(tmp_path / "tok"), tokens=2)
    train_tokenizer(["ab ab"], 262, tmp_path / "tok")
    first, _ = prepare(dataset, corpora)
    assert not prepare(dataset, corpora)[1] and (first.path / "tokens" / "train.parquet").is_file()
    train_tokenizer(["cd cd"], 262, tmp_path / "tok")
    second, is_new = prepare(dataset, corpora)
    assert is_new and second.key != first.key


def test_a_tokenizer_that_is_not_there_is_told(tmp_path, corpora):
    dataset = small_dataset("text", tmp_path, {"train": SHORT["text"]}, tokenizer=str(tmp_path / "none"))
    with pytest.raises(ModelError, match="tokenizer=.*none: neither a folder"):
        prepare(dataset, corpora)
