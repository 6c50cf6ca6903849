import pytest
import torch
from exporting import record_of, written
from family_shapes import DECODERS, ENCODER_DECODERS, ENCODERS, random_model

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ExportError
from slimsweep.export.onnx import FILE, Onnx, run, session_of
from slimsweep.export.origin import record_at
from slimsweep.models.generation import Decoding, generate
from slimsweep.techniques.factorization.svd import SVD
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.structured.glu import Glu

pytest.importorskip("onnxruntime", reason="needs the extra `export` (onnx, onnxruntime, onnxscript)")


def test_unequal_and_factored_blocks_run_in_onnxruntime_at_other_sizes_than_the_example(tiny, tmp_path):
    Glu(ratio=0.25, blocks=(1, 1)).apply(tiny, StageContext())
    SVD(ratio=0.5, variant="plain", include=["*.0.mlp.*"]).apply(tiny, StageContext())
    sample = written(Onnx(), tiny, tmp_path / "out")
    (line,) = Onnx().verify(tmp_path / "out", sample)
    assert "by onnxruntime differ by" in line
    batch = {"input_ids": torch.randint(0, 258, (3, 7))}
    with torch.no_grad():
        expected = tiny.task.forward(tiny.module, batch).logits
    assert torch.allclose(run(session_of(tmp_path / "out" / FILE), batch), expected, atol=1e-4)
    assert record_at(tmp_path / "out" / FILE) == record_at(tmp_path / "out") == record_of()


def test_a_graph_gives_the_logits_that_metrics_read_and_writes_no_text(tiny, tmp_path):
    written(Onnx(), tiny, tmp_path / "out")
    batch = {"input_ids": torch.randint(0, 258, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    expected = tiny.logits(tiny.hidden_states(batch))
    read = Onnx().read(tmp_path / "out", tiny)
    assert torch.allclose(read.logits(read.hidden_states(batch)), expected, atol=1e-4)
    assert read.config is tiny.config and read.tokenizer is tiny.tokenizer
    with pytest.raises(ExportError, match="writes no text"):
        generate(read, [[1, 2, 3]], Decoding(max_new_tokens=2))
    weights = sum(parameter.nbytes for parameter in tiny.module.parameters())
    assert 0.95 * weights < Onnx().weight_bytes(tmp_path / "out") < 1.2 * weights  # norms of ones are folded away


def test_weights_of_8_bits_are_smaller_and_nearly_the_same(tiny, tmp_path):
    sample = written(Onnx(int8=True), tiny, tmp_path / "out")
    files = list((tmp_path / "out").glob(f"{FILE}*"))
    weights = sum(parameter.numel() for parameter in tiny.module.parameters())
    assert [file.name for file in files] == [FILE]
    assert Onnx().weight_bytes(tmp_path / "out") < 2 * weights  # 1 byte a weight, and scales
    assert b"DynamicQuantizeLinear" in files[0].read_bytes() and weights
    Onnx(int8=True).verify(tmp_path / "out", sample)
    with pytest.raises(ExportError, match="allowed is 0.001"):  # rounding shows at the tolerance of fp32
        Onnx().verify(tmp_path / "out", sample)


def test_packed_layers_are_refused_with_what_would_work(tiny):
    NF4().apply(tiny, StageContext())
    (fault,) = Onnx().faults(tiny)
    assert "14 layers are packed (nf4)" in fault and "int8=true" in fault


def test_a_bad_option_is_refused():
    with pytest.raises(ValueError, match="int8=4"):
        Onnx(int8=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS, *ENCODER_DECODERS])
def test_every_family_runs_in_onnxruntime(tmp_path, name):
    model = random_model(name, str(tmp_path)).load(torch.float32, torch.device("cpu"))
    sample = written(Onnx(), model, tmp_path / "out")
    (line,) = Onnx().verify(tmp_path / "out", sample)  # raises where the logits differ
    assert "onnxruntime" in line and "logits" in line
