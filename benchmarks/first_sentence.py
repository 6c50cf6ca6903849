"""Train a small BART to write the first sentence of three, compress it by each method, and print one table.

    .venv/bin/python benchmarks/first_sentence.py [--outputs FOLDER] [--epochs 4] [--threads 1] [KEY=VALUE ...]

Summaries need far more than the 400 articles of `../shared/data/cnn_dailymail` to be learned. The first sentence does
not: a model that finds where sentences end, and copies, writes all of it. The rows are windows of three sentences; 40
articles are held out whole. The jobs are those of `sweeps/summarization.yaml`, on a smaller model. Its weights are
drawn larger than usual: it then learns to copy in a quarter of the steps. Each KEY=VALUE is a setting of the
sweep. With --outputs, a second run reads the records of the first.
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from slimsweep.evaluation.rouge import sentences

PROJECT = Path(__file__).resolve().parents[1]
ARTICLES = PROJECT.parent / "shared" / "data" / "cnn_dailymail" / "validation.jsonl.gz"
HELD_OUT = 40
WINDOW = 3
CHARACTERS = (20, 120)
"""Shortest and longest first sentence; the three have at most three times as many."""
VOCABULARY = 1000
DATASET = """kind: pairs
splits:
  train: {files: [train.jsonl]}
  test: {files: [test.jsonl]}
columns: {source: source, target: target}
"""
SHAPE = {
    "vocab_size": VOCABULARY,
    "d_model": 128,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "scale_embedding": "false",
    "+init_std": 0.08,
    "+dropout": 0.0,
}
TRAINING = {"batch_sequences": 16, "learning_rate": 0.001, "group_lengths": "true", "tokens": "null"}


def windows(article: str, step: int) -> list[dict[str, str]]:
    """Three sentences in a row and the first of them, at every `step` sentences."""
    text = sentences(" ".join(article.split()))
    starts = (text[place : place + WINDOW] for place in range(0, len(text) - WINDOW + 1, step))
    shortest, longest = CHARACTERS
    fitting = (chosen for chosen in starts if shortest <= len(chosen[0]) <= longest)
    rows = [{"source": " ".join(chosen), "target": chosen[0]} for chosen in fitting]
    return [row for row in rows if len(row["source"]) <= WINDOW * longest]


def write_dataset(folder: Path) -> Path:
    """Rows and the YAML file of the dataset; windows of training overlap, those of the test do not."""
    with gzip.open(ARTICLES, "rt", encoding="utf-8") as lines:
        articles = [json.loads(line)["article"] for line in lines]
    random.Random(0).shuffle(articles)
    for name, part, step in (("test", articles[:HELD_OUT], WINDOW), ("train", articles[HELD_OUT:], 1)):
        rows = [json.dumps(row) for article in part for row in windows(article, step)]
        print(f"{name}: {len(part)} articles, {len(rows)} rows", file=sys.stderr)
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    file = folder / "first_sentence.yaml"
    file.write_text(DATASET)
    return file


def slim(*words: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "slimsweep.cli.slim", *words], check=True, capture_output=True, text=True
    )
    return ran.stdout.strip()


def launch(file: Path, outputs: Path, epochs: int, threads: int, settings: list[str]) -> None:
    """Prepare the rows and run the sweep as a user does."""
    places = ("--data-dir", str(file.parent), "--cache-dir", str(outputs / "cache"))
    prepared = Path(slim("prepare", str(file), f"tokenizer={VOCABULARY}", *places).splitlines()[-1])
    readers = ("calibration", "data", "evaluation")
    command = [
        *(sys.executable, "-m", "slimsweep.cli.app", "+sweeps=summarization", "sweep=first_sentence"),
        *("model=bart_tiny", f"model.tokenizer_path={prepared / 'tokenizer'}"),
        *(f"{'+' if name[0] == '+' else ''}model.shape.{name.lstrip('+')}={value}" for name, value in SHAPE.items()),
        *(f"{reader}.dataset={file}" for reader in readers),
        *(f"technique.{stage}.{name}={value}" for stage in ("finetune", "distill") for name, value in TRAINING.items()),
        *(f"technique.{stage}.epochs={epochs}" for stage in ("finetune", "distill")),
        *("calibration.source_tokens=250", "evaluation.max_new_tokens=64", f"data_dir={file.parent}"),
        *("device=cpu", "tracker=none", f"outputs_dir={outputs}", *settings),
    ]
    subprocess.run(command, check=True, cwd=PROJECT, env=os.environ | {"OMP_NUM_THREADS": str(threads)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of the sweep")
    parser.add_argument("--outputs", type=Path, help="folder of the records; by default one that is removed")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        outputs = (given.outputs or Path(temporary) / "outputs").absolute()
        launch(write_dataset(Path(temporary)), outputs, given.epochs, given.threads, given.settings)
        print(slim("table", "first_sentence", "--outputs", str(outputs), "--against", "base"))


if __name__ == "__main__":
    main()
