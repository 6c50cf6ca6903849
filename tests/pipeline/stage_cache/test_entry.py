"""An entry holds a model whole: what is read back is what was written, for every family."""

import json

import pytest
import torch
from family_shapes import DECODERS
from reductions import CPU, EVERY, loud, uneven

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.models.language_model import weights_digest
from slimsweep.models.sources.random import RandomModel
from slimsweep.pipeline.keys import StageKey
from slimsweep.pipeline.stage_cache import entry
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.rtn import RTN

KEY = StageKey("0" * 64, ({"weights": "w"}, {"stage": {"ratio": 0.5}}), "model", "chain")
STATE = {"stages": [{"seconds": 1.5}, {"seconds": 2.0}]}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / KEY.digest
    made.mkdir()
    return made


@pytest.mark.parametrize("family", EVERY)
def test_models_of_every_family_come_back_bit_for_bit(family, folder, tmp_path):
    model = loud(family, str(tmp_path))
    RTN(bits=4, group_size=None).apply(uneven(model), StageContext())
    Magnitude(ratio=0.5, include=("*.1.*",)).apply(model, StageContext())
    entry.write(folder, KEY, model, STATE)
    task = "causal_lm" if family in DECODERS else "sequence_classification"
    source = RandomModel(name=family, shape=EVERY[family], task=task, cache_dir=str(tmp_path))
    content = entry.read(folder, KEY).content
    found = source.restored(folder, torch.float32, CPU, False, content["original_parameters"])
    assert weights_digest(found) == content["weights_digest"] == weights_digest(model)
    assert found.original_parameters == model.original_parameters
    assert not found.module.training and not any(weight.requires_grad for weight in found.module.parameters())


def test_an_entry_says_what_it_is(folder, tiny):
    entry.write(folder, KEY, tiny, STATE)
    content = json.loads((folder / "entry.json").read_text())["content"]
    assert content["key"] == [{"weights": "w"}, {"stage": {"ratio": 0.5}}]
    assert set(content["files"]) == {path.name for path in folder.iterdir()} - {"entry.json", "used"}
    assert content["threads"] == torch.get_num_threads() and content["dtype"] == "float32"
    listed = entry.listed(folder)
    assert (listed.digest, listed.model, listed.chain, listed.seconds) == (KEY.digest, "model", "chain", 3.5)
    assert listed.bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert listed.last_used == (folder / "used").stat().st_mtime


def test_an_entry_that_cannot_be_read_is_listed_all_the_same(folder, tiny):
    entry.write(folder, KEY, tiny, STATE)
    (folder / "entry.json").write_text("{")
    assert entry.listed(folder).chain == "" and entry.listed(folder).bytes > 0
    assert entry.listed(folder.with_name("gone")) is None
