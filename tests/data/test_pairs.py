import gzip
import hashlib
import json

import pytest
import torch
from g2p import characters, tokenizer_of

from slimsweep.data.pairs import Pair, TokenPair, draw, pair_batch, read_pairs, token_pairs
from slimsweep.errors import CorpusError

COLUMNS = ("source", "target")
WORDS = [("one", "un"), ("two", "deux"), ('say "hi"', "dis «salut»"), ("four, five", "quatre, cinq")]


def written(path, content: str):
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return str(path)


def texts(pairs) -> list[tuple[str, str]]:
    return [(pair.source, pair.target) for pair in pairs.pairs]


def as_table(mark: str) -> str:
    quoted = [[text.replace('"', '""') for text in row] for row in [COLUMNS, *WORDS]]
    return "\n".join(mark.join(f'"{text}"' for text in row) for row in quoted)


def as_rows() -> list[dict[str, str]]:
    return [dict(zip(COLUMNS, pair, strict=True)) for pair in WORDS]


FORMS = {
    "tsv": lambda: as_table("\t"),
    "csv": lambda: as_table(","),
    "tsv.gz": lambda: as_table("\t"),
    "json": lambda: json.dumps(as_rows()),
    "jsonl": lambda: "\n".join(map(json.dumps, as_rows())),
}


@pytest.mark.parametrize("ending", FORMS)
def test_every_format_gives_the_same_pairs_and_digest(tmp_path, ending):
    pairs = read_pairs(written(tmp_path / f"p.{ending}", FORMS[ending]()), COLUMNS)
    assert texts(pairs) == WORDS
    assert [pair.row for pair in pairs.pairs] == [1, 2, 3, 4]
    lines = "\n".join("\0".join(pair) for pair in WORDS)
    assert pairs.digest == hashlib.sha256(lines.encode()).hexdigest()


def test_a_parquet_file_has_columns_of_any_name(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"en": [source for source, _ in WORDS], "fr": [target for _, target in WORDS]})
    parquet.write_table(table, tmp_path / "p.parquet")
    assert texts(read_pairs(str(tmp_path / "p.parquet"), ("en", "fr"))) == WORDS


def test_lines_of_two_text_files_correspond(tmp_path):
    source = written(tmp_path / "test.en", "one\ntwo\n")
    target = written(tmp_path / "test.fr.gz", "un\ndeux")
    assert texts(read_pairs(source, COLUMNS, target)) == [("one", "un"), ("two", "deux")]


def test_unequal_numbers_of_lines_are_refused_with_both(tmp_path):
    source, target = written(tmp_path / "a.txt", "one\ntwo\nthree\n"), written(tmp_path / "b.txt", "un\ndeux\n")
    with pytest.raises(CorpusError, match=r"a\.txt has 3 lines and .*b\.txt has 2"):
        read_pairs(source, COLUMNS, target)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.tsv", "source\ttarget\none\tun\ntwo\t\n", "row 2 has an empty target"),
        ("p.tsv", "source\ttarget\n", "holds no pair"),
        (
            "p.tsv",
            "word\tphonemes\none\tun\n",
            r"columns there: word, phonemes\. .* here\.source_column=NAME",
        ),
        ("p.jsonl", '{"source": "one", "target": 1}', "row 1 has no text in its column 'target'"),
        ("p.txt", "one\ttwo\n", r"add here\.target_path=FILE"),
    ],
)
def test_what_is_no_pair_is_named(tmp_path, name, content, message):
    with pytest.raises(CorpusError, match=message):
        read_pairs(written(tmp_path / name, content), COLUMNS, where="here.")


def test_a_missing_file_and_one_with_columns_beside_another_are_named(tmp_path):
    with pytest.raises(CorpusError, match=r"no file .*absent\.tsv for the pairs"):
        read_pairs(str(tmp_path / "absent.tsv"), COLUMNS)
    path = written(tmp_path / "p.tsv", FORMS["tsv"]())
    with pytest.raises(CorpusError, match=r"leave here\.target_path out"):
        read_pairs(path, COLUMNS, path, "here.")


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "p.tsv"
    before = read_pairs(written(path, "source\ttarget\none\tun\n"), COLUMNS)
    assert read_pairs(str(path), COLUMNS) is before
    assert texts(read_pairs(written(path, "source\ttarget\none\tune\n"), COLUMNS)) == [("one", "une")]


def test_one_source_in_five_is_held_out_whatever_its_target_and_row():
    pairs = [Pair(row, f"word {row}", "t") for row in range(2000)]
    held_out = {pair.source for pair in pairs if pair.is_held_out}
    assert 330 < len(held_out) < 470
    moved = {pair.source for pair in (Pair(7, text, "other") for text in held_out) if pair.is_held_out}
    assert moved == held_out


def test_equal_seeds_draw_equal_pairs_without_repeats():
    pairs = [TokenPair(row, [row], [row]) for row in range(50)]
    first, again, other = (draw(pairs, 20, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len({pair.row for pair in first}) == 20


def test_token_ids_are_the_tokenizers_and_targets_its_spelling_of_targets(tmp_path):
    class TwoTongues:
        """Spells sources by their letters and targets by their letters and 100, as Marian's has two vocabularies."""

        init_kwargs = None

        def get_vocab(self):
            return {}

        def __call__(self, text=None, text_target=None, verbose=True):
            given, shift = (text, 0) if text is not None else (text_target, 100)
            return {"input_ids": [[ord(letter) + shift for letter in one] for one in given]}

    pairs = read_pairs(written(tmp_path / "p.tsv", "source\ttarget\nab\tc\n"), COLUMNS)
    assert token_pairs(pairs, TwoTongues()) == (TokenPair(1, [97, 98], [199]),)


def test_a_batch_is_padded_masked_and_shifted():
    class Config:
        pad_token_id, decoder_start_token_id = 0, 9

    batch = pair_batch([TokenPair(1, [4, 5, 6], [7]), TokenPair(2, [4], [7, 8])], Config())
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[4, 5, 6], [4, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "decoder_input_ids": [[9, 7], [9, 7]],
        "decoder_attention_mask": [[1, 0], [1, 1]],
        "labels": [[7, -100], [7, 8]],
    }


def test_a_target_may_hold_the_padding_token_itself():
    class Config:
        pad_token_id, decoder_start_token_id = 0, 0

    batch = pair_batch([TokenPair(1, [4], [0, 3]), TokenPair(2, [0, 4], [3])], Config())
    assert batch["labels"].tolist() == [[0, 3], [3, -100]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("family", ["bart", "marian", "t5"])
def test_the_decoders_input_is_that_of_transformers_for_the_same_labels(family):
    from transformers import AutoConfig
    from transformers.models.bart import modeling_bart
    from transformers.models.marian import modeling_marian
    from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration

    config = AutoConfig.for_model(family, **({"decoder_start_token_id": 0} if family == "t5" else {}))
    batch = pair_batch([TokenPair(1, [4, 5], [7, 8, 2]), TokenPair(2, [4], [2])], config)
    if family == "t5":
        with torch.device("meta"):
            small = T5ForConditionalGeneration(type(config)(d_model=8, d_ff=8, num_layers=1, decoder_start_token_id=0))
        expected = small._shift_right(batch["labels"])
    else:
        module = modeling_bart if family == "bart" else modeling_marian
        expected = module.shift_tokens_right(batch["labels"], config.pad_token_id, config.decoder_start_token_id)
    assert batch["decoder_input_ids"].equal(expected)


def test_a_t5_config_without_a_start_begins_with_its_padding():
    from transformers import T5Config

    assert pair_batch([TokenPair(1, [4], [7, 8])], T5Config(pad_token_id=3))["decoder_input_ids"].tolist() == [[3, 7]]


def test_words_of_the_trained_model_become_its_ids(shared):
    graphemes, phonemes = characters(shared / "models" / "bart-g2p-us")
    tokenizer = tokenizer_of(graphemes, phonemes)
    pairs = read_pairs(str(shared / "models" / "bart-g2p-us" / "words.tsv.gz"), ("word", "phonemes"))
    assert len(pairs.pairs) == 10661
    for pair, tokens in zip(pairs.pairs, token_pairs(pairs, tokenizer), strict=True):
        assert tokens.source == [1, *map(graphemes.index, pair.source), 2]
        assert tokens.target == [1, *map(phonemes.index, pair.target), 2]
