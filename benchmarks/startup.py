"""Seconds until the command has answered, each in a fresh process.

.venv/bin/python benchmarks/startup.py [--repeats 5]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile

import measuring

ANSWERS = {
    "slimsweep --help": ["--help"],
    "a mistyped setting": ["technique=wanda", "technique.wanda.ration=0.5"],
    "a value that cannot be": ["technique=wanda", "ratio=1.5"],
    "a quantizer's value that cannot be": ["technique=gptq", "technique.gptq.bits=5"],
    "a technique that does not exist": ["technique=wonder"],
}
GOAL_SECONDS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        def run(words: list[str]) -> None:
            outputs = [] if "--help" in words else [f"outputs_dir={folder}"]
            ran = subprocess.run([sys.executable, "-m", "slimsweep.cli.app", *words, *outputs], capture_output=True)
            assert ran.returncode == (0 if "--help" in words else 1), ran.stderr.decode()

        seconds = measuring.alternate(
            {what: lambda words=words: run(words) for what, words in ANSWERS.items()}, given.repeats
        )
    print("| what | seconds | goal | met |\n| --- | ---: | ---: | ---: |")
    for what, values in seconds.items():
        met = measuring.met(statistics.median(values) < GOAL_SECONDS)
        print(f"| {what} | {measuring.format_seconds(values)} | < {GOAL_SECONDS} s | {met} |")


if __name__ == "__main__":
    main()
