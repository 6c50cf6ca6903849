import ast
from pathlib import Path

import slimsweep.techniques.external.sparseml_run


def test_it_imports_only_what_sparsemls_environment_has():
    """How it runs is shown in test_sparseml.py; there nothing of this package can be imported."""
    tree = ast.parse(Path(slimsweep.techniques.external.sparseml_run.__file__).read_text())
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    plain = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    found = {name.split(".")[0] for name in froms | plain}
    assert found == {"json", "sys", "time", "importlib", "pathlib", "datasets", "safetensors", "sparseml"}
