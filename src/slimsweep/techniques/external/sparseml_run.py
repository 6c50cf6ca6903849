"""Script for sparseml's own environment: `python sparseml_run.py FOLDER`, files in and files out.

Reads FOLDER/model, FOLDER/token_ids.safetensors and FOLDER/job.json; writes FOLDER/pruned and FOLDER/done.json. Nothing
of slimsweep is imported, which that environment does not have.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path


def main(folder: Path) -> None:
    from datasets import Dataset
    from safetensors.torch import load_file
    from sparseml.transformers import oneshot

    job = json.loads((folder / "job.json").read_text())
    rows = load_file(folder / "token_ids.safetensors")["token_ids"].tolist()
    dataset = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    started = time.perf_counter()
    oneshot(
        model=str(folder / "model"),
        tokenizer=str(folder / "model"),
        dataset=dataset,
        recipe=json.dumps({"pruning_stage": {"obcq_modifiers": {"SparseGPTModifier": job["modifier"]}}}),
        output_dir=str(folder / "pruned"),
        precision=job["dtype"],
        oneshot_device=job["device"],
        num_calibration_samples=len(rows),
        max_seq_length=len(rows[0]),
        shuffle_calibration_samples=False,
        pad_to_max_length=False,
        save_compressed=False,
    )
    seconds = time.perf_counter() - started
    (folder / "done.json").write_text(json.dumps({"seconds": seconds, "sparseml": metadata.version("sparseml")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
