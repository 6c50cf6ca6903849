"""How a run leaves the model is shown in test_llmcompressor.py."""

import gc
import weakref

import pytest
import torch
from contexts import text_context

from slimsweep.models.batches import text_batch
from slimsweep.techniques.external.llmcompressor import LLMCompressor
from slimsweep.techniques.external.oneshot import package_faults, package_notes, run_oneshot


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
        run_oneshot(tiny, text_batch(ids), "recipe", 2)
    assert seen["dataset"]["input_ids"] == ids.tolist()
    assert seen["shuffle_calibration_samples"] is False
    assert (seen["max_seq_length"], seen["num_calibration_samples"]) == (4, 3)
    assert seen["batch_size"] == 2
    assert tiny.module.config.name_or_path == before != seen["path"]
    assert torch.Tensor.pin_memory is pin


def test_nothing_keeps_the_model_alive(tiny_source):
    model = tiny_source.load(torch.float32, torch.device("cpu"))
    LLMCompressor(ratio=0.5).apply(model, text_context(torch.randint(258, (2, 16))))
    kept = weakref.ref(model.module)
    del model
    gc.collect()
    assert kept() is None


def test_its_warnings_are_told_once_and_recorded_and_its_chatter_is_not(tiny, monkeypatch, caplog, capfd):
    def oneshot(**_):
        from loguru import logger

        logger.info("a line for every layer")
        for _ in range(2):
            logger.warning("Failed to invert hessian")
        logger.warning("No accelerator available! Compressing model on CPU instead")

    monkeypatch.setattr("llmcompressor.oneshot", oneshot)
    caplog.set_level("INFO")
    assert run_oneshot(tiny, text_batch(torch.arange(12).view(3, 4)), "recipe", 1) == ["Failed to invert hessian"]
    assert [record.getMessage() for record in caplog.records] == ["llm-compressor: Failed to invert hessian"]
    assert "a line for every layer" not in "".join(capfd.readouterr())
    assert package_notes(["one"])["warnings"] == ["one"] and "warnings" not in package_notes([])


def test_a_missing_package_says_what_to_install(monkeypatch):
    assert package_faults() == []
    assert package_notes([]) == {"llmcompressor": "0.14.0.1"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "[peers]" in package_faults()[0]
