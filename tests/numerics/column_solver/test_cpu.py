"""The compiled solve is checked in test_column_solver.py; here what it must not be: imported early."""

import subprocess
import sys


def test_numba_is_imported_when_something_is_solved_and_not_before():
    modules = "slimsweep.numerics.column_solver, slimsweep.numerics.masks"
    modules += ", slimsweep.techniques.pruning.sparsegpt, slimsweep.techniques.quantization.gptq"
    script = f"import sys, {modules}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
