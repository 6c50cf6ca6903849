import pytest
import torch
from family_shapes import random_model
from small_classifier import small_classifier
from small_pairs import pair_table, seq2seq, words
from tiny_training import FAST, tiny_llama, training_context

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.corpora import Corpora
from slimsweep.data.labelled_rows import LabelledRows
from slimsweep.data.training_pairs import TrainingPairs
from slimsweep.linear.base import linear_forms
from slimsweep.models.language_model import parameter_count
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.training.finetune import Finetune

CPU = torch.device("cpu")
SHORT = {"tokens": None, "epochs": 6, "batch_sequences": 8, "evaluations": 2, "learning_rate": 3e-3}


def test_an_encoder_decoder_learns_its_targets(tmp_path):
    source = seq2seq("bart", tmp_path)
    data = TrainingPairs(path=pair_table(tmp_path, words(60))).examples(source, Corpora(None, tmp_path))
    model = source.load(torch.float32, CPU)
    training = Finetune(**SHORT).apply(model, StageContext(data=data)).notes["training"]
    assert training["loss_best"] < training["loss_start"] - 0.3


def test_a_classifier_learns_its_labels(tmp_path):
    source = small_classifier(tmp_path)
    lines = [f"{'abc' if n % 2 else 'xyz'} {n}\t{n % 2}" for n in range(120)]
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "\n".join(lines))
    data = LabelledRows(path=str(tmp_path / "rows.tsv"), tokens=12).examples(source, Corpora(None, tmp_path))
    model = source.load(torch.float32, CPU)
    training = Finetune(**SHORT).apply(model, StageContext(data=data)).notes["training"]
    assert training["loss_best"] < 0.5 * training["loss_start"]


def test_after_a_packed_stage_only_what_is_not_packed_changes(tmp_path):
    model = tiny_llama(tmp_path)
    RTN(bits=4, group_size=None).apply(model, training_context(model))
    before = {name: one.clone() for name, one in model.module.state_dict().items()}
    training = Finetune(**FAST).apply(model, training_context(model)).notes["training"]
    assert training["loss_best"] < training["loss_start"] and linear_forms(model.module)
    changed = {name for name, one in model.module.state_dict().items() if not torch.equal(one, before[name])}
    assert "model.embed_tokens.weight" in changed and not [name for name in changed if "proj" in name]


def test_with_a_rank_it_trains_adapters(tmp_path):
    model = tiny_llama(tmp_path)
    embeddings = model.module.get_input_embeddings().weight.clone()
    training = Finetune(**FAST, rank=2).apply(model, training_context(model)).notes["training"]
    assert torch.equal(model.module.get_input_embeddings().weight, embeddings)
    assert training["trained_parameters"] < 0.3 * parameter_count(model.module)


def test_it_makes_the_base_and_plans_no_change(tmp_path):
    assert Finetune.makes_base
    skeleton = random_model("llama", str(tmp_path)).skeleton().copy()
    before = parameter_count(skeleton.module)
    report = Finetune().plan(skeleton)
    assert parameter_count(skeleton.module) == before and all(layer.zeros == 0 for layer in report.layers)


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
def test_other_families_train_too(tmp_path, family):
    model = random_model(family, str(tmp_path)).load(torch.float32, CPU)
    training = Finetune(**FAST | {"learning_rate": 3e-3}).apply(model, training_context(model)).notes["training"]
    assert training["loss_best"] < training["loss_start"]
