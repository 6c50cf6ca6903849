import json

import pytest
import small_tokenizers

from slimsweep.errors import ExportError
from slimsweep.export.llama_cpp.vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED, _scores, check, vocabulary
from slimsweep.models.sources.byte_tokenizer import byte_tokenizer


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_the_rule_of_a_byte_level_tokenizer_is_recognised(name):
    settings = vocabulary(small_tokenizers.byte_level(name), 420).settings
    assert (settings["ggml.model"], settings["ggml.pre"]) == ("gpt2", name)
    assert len(settings["ggml.tokens"]) == len(settings["ggml.token_type"]) == 420


def test_kinds_of_tokens():
    tokenizer = small_tokenizers.byte_level("gpt-2")
    settings = vocabulary(tokenizer, 420).settings
    kinds = dict(zip(settings["ggml.tokens"], settings["ggml.token_type"], strict=True))
    assert (kinds["<|im_end|>"], kinds["<tool>"], kinds["a"], kinds["[PAD419]"]) == (
        CONTROL,
        USER_DEFINED,
        NORMAL,
        UNUSED,
    )
    assert settings["ggml.eos_token_id"] == 2
    assert settings["ggml.add_bos_token"] is False


def test_earlier_merges_have_higher_scores():
    tokenizer = small_tokenizers.sentence_piece(prefix=True)
    settings = vocabulary(tokenizer, len(tokenizer)).settings
    scores = dict(zip(settings["ggml.tokens"], settings["ggml.scores"], strict=True))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert scores["".join(merges[0])] == 0 > scores["".join(merges[-1])]
    assert settings["ggml.model"] == "llama"
    assert settings["ggml.add_space_prefix"] is True and settings["ggml.add_bos_token"] is True


def test_a_tokenizer_without_a_prefix_says_so():
    tokenizer = small_tokenizers.sentence_piece(prefix=False)
    assert vocabulary(tokenizer, len(tokenizer)).settings["ggml.add_space_prefix"] is False


def test_nfc_is_noted():
    (note,) = vocabulary(small_tokenizers.byte_level("qwen2"), 420).notes
    assert "NFC" in note


def test_one_id_per_byte_needs_no_rule():
    assert vocabulary(byte_tokenizer(), 258).settings["ggml.merges"] == ["Ā Ā"]


def test_the_check_holds_a_text_and_its_ids():
    tokenizer = small_tokenizers.byte_level("gpt-2")
    content = json.loads(check(tokenizer))
    assert tokenizer.decode(content["ids"]) == content["text"]


def changed(tokenizer, **parts):
    """The tokenizer with other parts of its tokenizer.json."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    whole = json.loads(tokenizer.backend_tokenizer.to_str()) | parts
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(whole)), eos_token="<|im_end|>")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
            "rules",
        ),
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
    ],
)
def test_another_rule_is_refused(parts, message):
    with pytest.raises(ExportError, match=message):
        vocabulary(changed(small_tokenizers.byte_level("gpt-2"), **parts), 420)


def test_a_merge_that_llama_cpp_would_add_is_refused():
    tokenizer = small_tokenizers.sentence_piece(prefix=True)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    kinds = [NORMAL] * len(model["vocab"])
    assert _scores(list(model["vocab"]), kinds, model["merges"])
    with pytest.raises(ExportError, match="llama.cpp would join"):
        _scores(list(model["vocab"]), kinds, model["merges"][:-1])


def test_more_tokens_than_embeddings_are_refused():
    with pytest.raises(ExportError, match="300 embeddings"):
        vocabulary(small_tokenizers.byte_level("gpt-2"), 300)
