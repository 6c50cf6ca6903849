"""Compress the trained grapheme-to-phoneme BART by each method, through the command, and print one table.

    .venv/bin/python benchmarks/g2p.py [--outputs FOLDER] [--sequences 2048] [--threads 1]

The model is `../shared/models/bart-g2p-us`: one block an encoder and a decoder, 751,488 parameters. A method calibrates
on drawn words of its dictionary; all held-out words, a fifth, are measured: the perplexity of their phonemes, the share
that greedy decoding spells as the dictionary does, and the share of wrong phonemes. `distill` has the dense model as
teacher. With --outputs, a second run reads the records of the first.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests" / "support"))

from g2p import write_g2p  # noqa: E402

from slimsweep.records.store import Store  # noqa: E402

COLUMNS = ("word", "phonemes")
SWEEP = """# @package _global_
sweep: g2p
hydra:
  mode: MULTIRUN
  sweeper:
    grids:
      - {technique: "[]"}
      - {technique: "magnitude,wanda,sparsegpt", ratio: "0.3,0.5"}
      - {technique: "[magnitude,distill],[sparsegpt,distill]", ratio: "0.5"}
      - {technique: "rtn", technique.rtn.bits: "4,3"}
      - {technique: "gptq", technique.gptq.bits: "4,3"}
      - {technique: "nf4,int8"}
      - {technique: "llm_pruner,[llm_pruner,distill]", technique.llm_pruner.level: "block", ratio: "0.25"}
"""
DISTILL = {"tokens": 150000, "batch_sequences": 64, "learning_rate": 0.0005, "group_lengths": "true"}
HEAD = ("method", "ratio", "bits", "pair perplexity", "parameters", "nonzero", "weight bytes", "GMacs", "GMacs nonzero")
HEAD += ("words right", "phoneme error rate")


def launch(folder: Path, outputs: Path, sequences: int, threads: int) -> None:
    """Run the sweep as a user does."""
    made, words = write_g2p(PROJECT.parent / "shared", folder)
    (folder / "conf" / "sweeps").mkdir(parents=True)
    (folder / "conf" / "sweeps" / "g2p.yaml").write_text(SWEEP)
    command = [
        *(sys.executable, "-m", "slimsweep.cli.app", "--config-dir", str(folder / "conf"), "+sweeps=g2p"),
        *("model=local", f"model.path={made}", "model.task=seq2seq_lm", "model.name=bart-g2p-us"),
        *("calibration=pairs", f"calibration.sequences={sequences}", "data=pairs", "evaluation=pairs"),
        *("+metric=edit_errors", "evaluation.metrics.edit_errors.split=held_out"),
        "evaluation.metrics.edit_errors.max_new_tokens=40",
        *(f"technique.distill.{name}={value}" for name, value in DISTILL.items()),
        *("dtype=float32", "device=cpu", "tracker=none", f"outputs_dir={outputs}"),
    ]
    for reader in ("calibration", "data", "evaluation.metrics.edit_errors"):
        columns = (f"{reader}.{side}_column={name}" for side, name in zip(("source", "target"), COLUMNS, strict=True))
        command += [f"{reader}.path={words}", *columns]
    subprocess.run(command, check=True, cwd=PROJECT, env=os.environ | {"OMP_NUM_THREADS": str(threads)})


def row(record: dict) -> str:
    ratio = "" if record["ratio"] is None else f"{record['ratio']:g}"
    bits = [str(found) for stage in record["stages"] if (found := stage["fields"].get("bits"))]
    cells = [record["technique"], ratio, " ".join(bits), f"{record['pair_perplexity']:.4f}"]
    cells += [f"{record[name]:,}" for name in ("parameters", "nonzero_parameters", "weight_bytes")]
    cells += [f"{record[name]:.4f}" for name in ("gmacs", "gmacs_nonzero", "exact_match", "edit_error_rate")]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, help="folder of the records; by default one that is removed")
    parser.add_argument("--sequences", type=int, default=2048, help="words that calibrate")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        outputs = (given.outputs or Path(temporary) / "outputs").absolute()
        launch(Path(temporary), outputs, given.sequences, given.threads)
        records = sorted(Store(outputs).sweep_records("g2p"), key=lambda one: one["pair_perplexity"])
        print("\n".join([f"| {' | '.join(HEAD)} |", f"|---|{'---:|' * (len(HEAD) - 1)}", *map(row, records)]))
        protocols = (records[0]["protocols"][name] for name in ("pair_perplexity", "edit_error_rate", "gmacs"))
        print("\n" + "; ".join(protocols))


if __name__ == "__main__":
    main()
