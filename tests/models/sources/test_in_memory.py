import pytest
import torch
from family_shapes import DECODERS
from transformers import AutoConfig, AutoModelForCausalLM

from slimsweep.errors import ModelError
from slimsweep.models.sources.byte_tokenizer import byte_tokenizer
from slimsweep.models.sources.in_memory import InMemoryModel

CPU = torch.device("cpu")


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(**DECODERS["qwen2"]))
    return InMemoryModel(name="mine", cache_dir=str(tmp_path), module=module, given_tokenizer=byte_tokenizer())


def test_a_copy_is_loaded_and_the_module_stays_as_it_is(source):
    model = source.load(torch.bfloat16, CPU)
    assert model.dtype == torch.bfloat16 and next(source.module.parameters()).dtype == torch.float32
    assert model.module is not source.module and model.tokenizer is source.tokenizer()
    again = source.load(torch.float32, CPU).module.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in source.module.state_dict().items())
    assert source.module.training and next(source.module.parameters()).requires_grad


def test_shapes_are_those_of_the_module_with_its_tied_embeddings(source):
    skeleton = source.skeleton()
    assert skeleton.is_meta and len(skeleton.blocks) == 2
    assert skeleton.original_parameters == source.load(torch.float32, CPU).original_parameters
    assert skeleton.module.lm_head.weight is skeleton.module.model.embed_tokens.weight
    assert not next(source.module.parameters()).is_meta


def test_the_digest_follows_the_weights(source, tmp_path):
    before = source.digest()
    with torch.no_grad():
        source.module.model.norm.weight[0] += 1
    changed = InMemoryModel(name="other", cache_dir=str(tmp_path), module=source.module)
    assert len(before) == 64 and changed.digest() != before


def test_an_unknown_class_is_a_fault_and_there_is_no_folder(source, tmp_path):
    assert source.faults() == []
    wrong = InMemoryModel(name="mine", cache_dir=str(tmp_path), task="seq2seq_lm", module=source.module)
    assert "Qwen2ForCausalLM" in wrong.faults()[0]
    for ask in (source.folder, lambda: source.load_mapped(torch.float32, tmp_path)):
        with pytest.raises(ModelError, match="in memory"):
            ask()
