import torch

from slimsweep import gpu_columns


def test_a_gpu_kernel_that_is_missing_or_wrong_gives_way_to_the_loop(monkeypatch, caplog):
    def broken(*_given):
        raise RuntimeError("no\ncompiler")

    for kernel, reason in ((broken, "RuntimeError: no compiler"), (lambda *_given: None, "it gives other numbers")):
        gpu_columns.gpu_solve.cache_clear()
        monkeypatch.setattr(gpu_columns, "solve_in_kernel", kernel)
        assert gpu_columns.gpu_solve(torch.device("cpu")) is gpu_columns.solve_by_column
        assert reason in caplog.text
    gpu_columns.gpu_solve.cache_clear()
    monkeypatch.setattr(gpu_columns, "solve_in_kernel", gpu_columns.solve_by_column)
    assert gpu_columns.gpu_solve(torch.device("cpu")) is gpu_columns.solve_in_kernel
    gpu_columns.gpu_solve.cache_clear()
