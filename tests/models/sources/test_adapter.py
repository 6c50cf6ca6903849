import json

import pytest

from slimsweep.models.sources.hub import HubModel
from slimsweep.models.sources.local import LocalModel
from slimsweep.models.storage.saved_model import save


@pytest.mark.parametrize("has_model", [True, False])
def test_an_adapter_is_refused_with_the_lines_that_merge_it(has_model, slimsweep, tiny, tmp_path):
    folder = tmp_path / "tuned"
    if has_model:
        save(tiny, folder)
    folder.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 4}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    answer = slimsweep("model=local", f"model.path={folder}", "technique=[]", "tracker=none")
    assert answer.status == 1
    assert f"{folder} holds an adapter (LoRA) of org/base" in answer.err
    merging = f"AutoPeftModelForCausalLM.from_pretrained('{folder}').merge_and_unload().save_pretrained('MERGED')"
    assert f"from peft import AutoPeftModelForCausalLM\n      {merging}" in answer.err
    assert ("move adapter_config.json and its weights out of the folder" in answer.err) == has_model
    (folder / "adapter_config.json").unlink()
    faults = LocalModel(path=str(folder), cache_dir=str(tmp_path / "cache")).faults()
    assert has_model == (faults == [])


def test_a_damaged_adapter_config_is_an_adapter_all_the_same(tiny, tmp_path):
    save(tiny, tmp_path / "tuned")
    (tmp_path / "tuned" / "adapter_config.json").write_text("{")
    (fault,) = LocalModel(path=str(tmp_path / "tuned"), cache_dir=str(tmp_path)).faults()
    assert "holds an adapter (LoRA) of its base model" in fault


def test_an_adapter_on_the_hub_is_named_by_its_id(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "IA3", "base_model_name_or_path": "org/base"})
    )
    monkeypatch.setattr(HubModel, "light_folder", lambda _self: tmp_path)
    (fault,) = HubModel(id="org/tuned", cache_dir=str(tmp_path)).faults()
    assert fault.startswith("org/tuned holds an adapter (IA3) of org/base and no model.")
    assert "from_pretrained('org/tuned')" in fault
