"""Compress the trained grapheme-to-phoneme BART by each method, through the command, and print one table.

    .venv/bin/python benchmarks/g2p.py [--outputs FOLDER] [--sequences 2048] [--threads 1]

The model is `../shared/models/bart-g2p-us`: one block an encoder and a decoder, 751,488 parameters. A method calibrates
on drawn words of its dictionary; the perplexity is that of the phonemes of the held-out fifth. The last column is the
share of 500 of these words that greedy decoding spells as the dictionary does, measured here and not by the command.
With --outputs, a second run reads the records of the first.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests" / "support"))

import torch  # noqa: E402
from g2p import characters, phonemes_of, write_g2p  # noqa: E402

import slimsweep  # noqa: E402
from slimsweep.data.pairs import read_pairs  # noqa: E402
from slimsweep.records.store import Store  # noqa: E402

COLUMNS = ("word", "phonemes")
SHOWN_WORDS = 500
SWEEP = """# @package _global_
sweep: g2p
hydra:
  mode: MULTIRUN
  sweeper:
    grids:
      - {technique: "[]"}
      - {technique: "magnitude,wanda,sparsegpt", ratio: "0.3,0.5"}
      - {technique: "rtn,gptq,nf4"}
      - {technique: "llm_pruner", technique.llm_pruner.level: "block", ratio: "0.25"}
"""
HEAD = ("method", "ratio", "pair perplexity", "parameters", "nonzero", "weight bytes", "GMacs", "GMacs nonzero")


def launch(folder: Path, outputs: Path, sequences: int, threads: int) -> Path:
    """Run the sweep as a user does; returns the model folder."""
    made, words = write_g2p(PROJECT.parent / "shared", folder)
    (folder / "conf" / "sweeps").mkdir(parents=True)
    (folder / "conf" / "sweeps" / "g2p.yaml").write_text(SWEEP)
    command = [
        *(sys.executable, "-m", "slimsweep.cli.app", "--config-dir", str(folder / "conf"), "+sweeps=g2p"),
        *("model=local", f"model.path={made}", "model.task=seq2seq_lm", "model.name=bart-g2p-us"),
        *("calibration=pairs", f"calibration.path={words}", f"calibration.sequences={sequences}"),
        *(f"calibration.{side}_column={name}" for side, name in zip(("source", "target"), COLUMNS, strict=True)),
        *("evaluation=pairs", "dtype=float32", "device=cpu", "tracker=none", "save_model=true"),
        f"outputs_dir={outputs}",
    ]
    subprocess.run(command, check=True, cwd=PROJECT, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    return made


def spelled(saved: Path, folder: Path, words: Path) -> float:
    """Share of held-out words that a saved model spells as the dictionary does."""
    from transformers import AutoTokenizer

    module, tokenizer = slimsweep.load(saved), AutoTokenizer.from_pretrained(folder)
    _, phonemes = characters(folder)
    held_out = sorted((pair for pair in read_pairs(str(words), COLUMNS).pairs if pair.is_held_out), key=_hash)
    pairs = held_out[:SHOWN_WORDS]
    batch = tokenizer([pair.source for pair in pairs], padding=True, return_tensors="pt")
    with torch.no_grad():
        made = module.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=40, do_sample=False
        )
    return sum(phonemes_of(row, phonemes) == pair.target for row, pair in zip(made.tolist(), pairs, strict=True)) / len(
        pairs
    )


def _hash(pair) -> bytes:
    return pair.source_digest


def row(record: dict, share: float) -> str:
    ratio = "" if record["ratio"] is None else f"{record['ratio']:g}"
    cells = [record["technique"], ratio, f"{record['pair_perplexity']:.4f}"]
    cells += [f"{record[name]:,}" for name in ("parameters", "nonzero_parameters", "weight_bytes")]
    cells += [f"{record[name]:.5f}" for name in ("gmacs", "gmacs_nonzero")]
    return f"| {' | '.join(cells)} | {100 * share:.1f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, help="folder of the records; by default one that is removed")
    parser.add_argument("--sequences", type=int, default=2048, help="words that calibrate")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        outputs = (given.outputs or Path(temporary) / "outputs").absolute()
        model = launch(Path(temporary), outputs, given.sequences, given.threads)
        words = PROJECT.parent / "shared" / "models" / "bart-g2p-us" / "words.tsv.gz"
        print(f"| {' | '.join(HEAD)} | words spelled alike |\n|---|{'---:|' * len(HEAD)}")
        store = Store(outputs)
        records = sorted(store.sweep_records("g2p"), key=lambda one: one["pair_perplexity"])
        for record in records:
            print(row(record, spelled(store.folder(record["key"]) / "model", model, words)), flush=True)
        print(f"\n{records[0]['protocols']['pair_perplexity']}; {records[0]['protocols'].get('gmacs', '')}")


if __name__ == "__main__":
    main()
