"""The compiled solve is checked through solve_columns in test_columns.py; here what it must not be: imported early."""

import subprocess
import sys


def test_numba_is_imported_when_something_is_solved_and_not_before():
    modules = "slimsweep.columns, slimsweep.masks, slimsweep.techniques.sparsegpt, slimsweep.techniques.gptq"
    script = f"import sys, {modules}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
