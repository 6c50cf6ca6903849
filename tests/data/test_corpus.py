from slimsweep.data.corpus import CORPORA, Corpus
from slimsweep.data.rows import Rows


def corpus(**fields) -> Corpus:
    return Corpus(name="a", split="test", rows=Rows(), join=" ", **fields)


def test_blank_rows_are_empty_and_others_are_untouched():
    rows = [{"text": " \n"}, {"text": " = Title = \n"}]
    assert corpus().documents(rows) == ["", " = Title = \n"]


def test_stripped_rows_of_a_named_column():
    assert corpus(strip=True, column="sentence").documents([{"sentence": " a b \n"}]) == ["a b"]


def test_only_the_first_documents_count():
    assert corpus(first=1).documents([{"text": "a"}, {"text": "b"}]) == ["a"]


def test_protocols_of_the_papers():
    """Joins, splits and limits as in the code of SparseGPT (datautils.py) and LLM-Pruner (ppl_dataset.py)."""
    found = {name: (entry.split, entry.join, entry.first, entry.max_windows) for name, entry in CORPORA.items()}
    assert found["wikitext2"] == ("test", "\n\n", None, None)
    assert found["ptb"] == ("test", " ", None, None)
    assert found["c4"] == ("validation[:1100]", " ", 1100, 256)
    assert found["ptb_llm_pruner"] == ("validation", "\n\n", None, None)
    assert {name for name, entry in CORPORA.items() if entry.context_tokens == 128} == {
        "wikitext2_llm_pruner",
        "ptb_llm_pruner",
        "c4_llm_pruner",
    }


def test_each_local_copy_belongs_to_the_split_its_name_says():
    for entry in CORPORA.values():
        for name in entry.rows.files:
            word = entry.split.split("[")[0].split(",")[0].replace("validation", "valid")
            assert word in name or name == "c4/c4_demo.jsonl"
