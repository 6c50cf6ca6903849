"""How a run leaves the model is shown in techniques/test_llmcompressor.py."""

import pytest
import torch

from slimsweep.oneshot import package_faults, package_version, run_oneshot


class Stop(Exception):
    pass


def test_it_hands_over_the_same_sequences_in_order_and_undoes_its_patches_after_an_error(tiny, monkeypatch):
    seen = {}

    def oneshot(**given):
        seen.update(given, path=given["model"].config.name_or_path, pinned=torch.ones(2).pin_memory())
        raise Stop

    monkeypatch.setattr("llmcompressor.oneshot", oneshot)
    ids = torch.arange(12).view(3, 4)
    before, pin = tiny.module.config.name_or_path, torch.Tensor.pin_memory
    with pytest.raises(Stop):
        run_oneshot(tiny, ids, "recipe")
    assert seen["dataset"]["input_ids"] == ids.tolist()
    assert seen["shuffle_calibration_samples"] is False
    assert (seen["max_seq_length"], seen["num_calibration_samples"]) == (4, 3)
    assert tiny.module.config.name_or_path == before != seen["path"]
    assert torch.Tensor.pin_memory is pin


def test_a_missing_package_says_what_to_install(monkeypatch):
    assert package_faults() == []
    assert package_version() == "0.14.0.1"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "[peers]" in package_faults()[0]
