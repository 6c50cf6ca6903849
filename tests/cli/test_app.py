"""The command `slimsweep` end to end on a small random model: one job, sweeps, failures, interruptions."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import CACHE, PROJECT
from small_jobs import SMALL, record_at

from slimsweep.records.record import results
from slimsweep.records.store import Store

IMPORTED_EARLY = """
import sys
from slimsweep.cli import app
print([name for name in ("torch", "tqdm", "transformers") if name in sys.modules])
"""
OWN = (f"--config-dir={PROJECT / 'tests' / 'conf'}",)


def test_libraries_that_read_the_environment_are_imported_after_it_is_set():
    answer = subprocess.run([sys.executable, "-c", IMPORTED_EARLY], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_sparsity_of_every_earlier_stage_is_measured_again(slimsweep):
    chain = ("technique=[magnitude,wanda]", "technique.magnitude.ratio=0.2", "technique.wanda.ratio=0.6")
    record = record_at(slimsweep(*SMALL, *chain))
    first, second = record["stages"]
    assert first["sparsity"] == pytest.approx(0.2, abs=0.01)
    assert first["sparsity_after"]["wanda"] == pytest.approx(0.6, abs=0.02) == second["sparsity"]
    assert record["technique"] == "magnitude+wanda"
    assert record["ratio"] is None and "different ratios" in record["reasons"]["ratio"]


def test_a_sweep_runs_the_union_of_its_grids_and_folds_equal_jobs(slimsweep, tmp_path):
    answer = slimsweep(*SMALL, "+sweeps=unstructured", "ratio=0.5")
    assert answer.status == 0, answer.err
    store = Store(tmp_path / "outputs")
    assert [record["technique"] for record in store.sweep_records("unstructured")] == [
        *("dense", "magnitude", "sparsegpt", "wanda")
    ]
    assert (store.sweeps_dir / "unstructured" / ".complete").is_file()
    assert "| sparsegpt" in (tmp_path / "outputs" / "tables" / "unstructured.md").read_text()
    again = slimsweep(*SMALL, "+sweeps=unstructured", "ratio=0.5")
    assert "4 jobs, 4 already recorded" in again.out and "measuring" not in again.out


def test_a_knob_on_the_command_line_reaches_the_jobs_that_have_its_technique(slimsweep):
    sweep = ["-m", "technique=[],magnitude,[wanda,magnitude]", "technique.magnitude.ratio=0.3,0.7", "dry_run=true"]
    answer = slimsweep(*sweep, *SMALL)
    assert answer.out.count(" missing ") == 1 + 2 + 2
    mistyped = slimsweep("-m", "technique=[],magnitude", "technique.magnitud.ratio=0.3", *SMALL)
    assert mistyped.status == 1 and "magnitud" in mistyped.err


def test_a_failing_job_leaves_the_others_alone_and_its_traceback_in_its_log(slimsweep, tmp_path):
    answer = slimsweep(*OWN, "-m", *SMALL, "technique=breaking,magnitude", "sweep=mine")
    assert answer.status == 1 and "broke half-way" in answer.err
    failed, done = Store(tmp_path / "outputs").status("mine")
    assert (failed.state, done.state) == ("failed", "done")
    assert failed.reason == "StageError: stage breaking: RuntimeError: broke half-way"
    assert "Traceback" in Path(failed.log).read_text()


def test_a_sweep_may_stop_at_its_first_failure(slimsweep, tmp_path):
    answer = slimsweep(*OWN, "-m", *SMALL, "technique=breaking,magnitude", "sweep=mine", "on_error=stop")
    assert answer.status == 1
    assert [job.state for job in Store(tmp_path / "outputs").status("mine")] == ["failed", "missing"]


def test_a_dry_run_lists_jobs_and_runs_nothing(slimsweep, tmp_path):
    answer = slimsweep(*SMALL, "+sweeps=unstructured", "dry_run=true")
    assert "28 jobs, 0 done, 28 to run" in answer.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["technique=wanda"], ["-m", "technique=wanda,magnitude"]])
def test_a_dry_run_writes_nothing(slimsweep, shared, tmp_path, arguments):
    from small_jobs import contents

    own = ["model=local", f"model.path={shared / 'models' / 'stories260K'}", f"cache_dir={tmp_path}/outputs/cache"]
    small = [argument for argument in SMALL if not argument.startswith("model=")]
    first = slimsweep(*arguments, *own, *small, "dry_run=true")
    assert first.status == 0 and " missing  stories260K wanda" in first.out
    assert list(tmp_path.iterdir()) == []
    record = record_at(slimsweep("technique=wanda", *own, *small))
    (tmp_path / "outputs" / "cache" / "digests" / "other.lock").touch()
    before = contents(tmp_path)
    second = slimsweep(*arguments, *own, *small, "dry_run=true")
    assert f"{record['key'][:16]}  done     stories260K wanda" in second.out
    assert contents(tmp_path) == before


def test_a_damaged_record_is_computed_again_beside_other_damaged_files(slimsweep, tmp_path):
    arguments = ("-m", *SMALL, "technique=wanda,magnitude", "sweep=mine")
    assert slimsweep(*arguments).status == 0
    store = Store(tmp_path / "outputs")
    first, second = store.sweep_records("mine")
    layers = store.layers(first["key"])
    for path in (
        *(store.folder(first["key"]) / name for name in ("record.json", "layers.json", "published.json")),
        store.sweeps_dir / "mine" / "jobs.json",
        store.sweeps_dir / "mine" / "published.json",
    ):
        path.write_bytes(b"")
    again = slimsweep(*arguments)
    assert again.status == 0 and "2 jobs, 1 already recorded" in again.out
    assert again.out.count("record.json is damaged and counts as missing") == 1
    assert [results(one) for one in store.sweep_records("mine")] == [results(first), results(second)]
    assert layers and store.layers(first["key"]) == layers


def test_shapes_alone_give_counts_and_reasons(slimsweep):
    record = record_at(
        slimsweep("model=llama_2_7b", "model.weights=meta", "technique=wanda", "evaluation=cost", "tracker=none")
    )
    assert record["parameters"] == 6_738_415_616
    assert record["gmacs"] == pytest.approx(423.93, abs=0.005)
    assert record["sparsity"] == 0.5 and record["weights_digest"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=smolm2_135m"], "Did you mean: smollm2_135m"),
        (["technique=[wnda]"], "Did you mean: wanda"),
        (["technique=spargpt"], "Did you mean: sparsegpt"),
        (["+sweeps=unstrctured"], "Did you mean: unstructured"),
        (["-m", "technique=wanda,wnda"], "wanda"),
        (["ratoi=0.5"], "Did you mean: ratio"),
        (["+metric=perplexty"], "Did you mean: perplexity"),
        (["+metric=perplexty"], "\tsemi_structured"),
        (["metric=perplexity"], "use +metric=perplexity"),
        (["technique=gptq", "technique.gptq.bitz=3"], "Did you mean: bits?"),
        (["technique=gptq", "technique.gptq.bitz=3"], "there are: act_order, bits, block_columns"),
    ],
)
def test_a_mistyped_choice_is_answered_with_near_misses_and_the_list(slimsweep, arguments, message):
    options = [argument for argument in arguments if argument.startswith("-")]
    answer = slimsweep(*options, *SMALL, *(argument for argument in arguments if argument not in options))
    assert answer.status == 1 and message in answer.err and "Traceback" not in answer.err


def test_a_metric_is_added_to_a_profile_that_leaves_it_out(slimsweep):
    small = [argument for argument in SMALL if not argument.startswith("evaluation.")]
    added = ("+metric=perplexity", "evaluation.metrics.perplexity.max_windows=1")
    job = (*small, "technique=magnitude", "evaluation=cost", "evaluation.metrics.perplexity.context_tokens=64")
    record = record_at(slimsweep(*job, *added))
    assert record["perplexity_movie_reviews"] > 1 and record["load_memory_bytes"] is None
    assert record["quantities"]["perplexity_movie_reviews"]["scale"] == "log"
    assert record["choices"]["metric"] == {"size": "size", "cost": "cost", "perplexity": "perplexity"}


def test_faults_of_all_jobs_of_a_sweep_come_before_any_starts(slimsweep, tmp_path):
    answer = slimsweep("-m", *SMALL, "technique=wanda,magnitude", "ratio=0.5,1.5")
    assert answer.status == 1 and answer.err.count("ratio=1.5") >= 2
    assert not Store(tmp_path / "outputs").records()


def test_a_sweep_file_without_its_first_line_is_refused(slimsweep, tmp_path):
    (tmp_path / "own" / "sweeps").mkdir(parents=True)
    (tmp_path / "own" / "sweeps" / "lost.yaml").write_text("sweep: lost\n")
    answer = slimsweep(f"--config-dir={tmp_path / 'own'}", *SMALL, "+sweeps=lost")
    assert answer.status == 1 and "@package _global_" in answer.err


def test_an_output_folder_that_cannot_be_made_is_told_before_work(slimsweep, tmp_path):
    (tmp_path / "file").write_text("")
    answer = slimsweep(*SMALL, f"outputs_dir={tmp_path}/file/outputs")
    assert answer.status == 1 and "outputs_dir" in answer.err


def test_help_teaches_by_examples(slimsweep):
    answer = slimsweep("--help")
    assert "slimsweep +sweeps=unstructured" in answer.out and "sparsegpt" in answer.out


def launch(tmp_path: Path, *arguments: str, cwd: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "slimsweep.cli.app", f"outputs_dir={tmp_path}/outputs", f"cache_dir={CACHE}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *SMALL, *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_launches_at_once_compute_each_key_once_from_any_folder(tmp_path):
    sweep = ("+sweeps=unstructured", "ratio=0.4")
    launches = [launch(tmp_path, *sweep, cwd=folder) for folder in (PROJECT / "tests", tmp_path)]
    outputs = [process.communicate(timeout=180)[0] for process in launches]
    assert [process.returncode for process in launches] == [0, 0], outputs
    assert sum(output.count("already recorded") for output in outputs) >= 4
    logs = [path.read_text() for path in (tmp_path / "outputs" / "records").glob("*/job.log")]
    assert len(logs) == 4 and all(log.count("perplexity: measuring") == 1 for log in logs)


def test_a_sweep_killed_at_any_moment_goes_on_and_ends_with_the_same_results(tmp_path):
    def finish(folder: Path) -> dict[str, dict]:
        process = launch(folder, "+sweeps=unstructured", "ratio=0.4", cwd=PROJECT)
        output = process.communicate(timeout=180)[0]
        assert process.returncode == 0, output
        return {record["key"]: results(record) for record in Store(folder / "outputs").records()}

    undisturbed = finish(tmp_path / "undisturbed")
    for records_before_the_kill in (0, 1, 2):
        process = launch(tmp_path / "killed", "+sweeps=unstructured", "ratio=0.4", cwd=PROJECT)
        deadline = time.monotonic() + 120
        while len(Store(tmp_path / "killed" / "outputs").records()) < records_before_the_kill:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.communicate()
    assert finish(tmp_path / "killed") == undisturbed
    assert len(undisturbed) == 4


def test_a_failure_outside_a_jobs_own_run_is_told_at_the_end(slimsweep, monkeypatch):
    faults = iter([None, "the disk is full"])
    monkeypatch.setattr(Store, "fault", lambda store: next(faults))
    answer = slimsweep(*SMALL, "+sweeps=dense")
    assert answer.status == 1 and "the disk is full" in answer.err


LINE = "Once upon a time there was a little dog who liked to run in the park. " * 40


def test_users_texts_as_people_have_them_calibrate_and_measure(slimsweep, tmp_path):
    texts = {
        "surrogate.jsonl": '{"text": "' + LINE + '\\ud83d"}\n',
        "lines.json": json.dumps([{"text": LINE}] * 4),
        "marked.txt": "\ufeff" + LINE,
    }
    for name, content in texts.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        path = tmp_path / name
        answer = slimsweep(
            *(*SMALL, "technique=wanda", "calibration=text", f"calibration.path={path}"),
            f"evaluation.corpora=[{{name: mine, path: {path}}}]",
        )
        assert answer.status == 0, answer.err
        assert record_at(answer)["perplexity_mine"] > 1


def test_a_text_in_another_column_is_told_and_read_by_its_name(slimsweep, tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps({"content": LINE}) + "\n")
    arguments = (*SMALL, "technique=wanda", "calibration=text", f"calibration.path={path}")
    refused = slimsweep(*arguments)
    assert refused.status == 1 and "columns there: content" in refused.err and "Traceback" not in refused.err
    assert slimsweep(*arguments, "calibration.column=content").status == 0


def test_a_model_that_cannot_be_loaded_costs_its_own_jobs_of_a_sweep(slimsweep, tiny, tmp_path):
    for name in ("good", "bad"):
        tiny.module.save_pretrained(tmp_path / name)
        tiny.tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "bad" / "tokenizer.json").write_text("{}")
    models = ",".join(str(tmp_path / name) for name in ("good", "bad"))
    sweep = ("-m", *SMALL[1:], "model=local", "technique=[],magnitude", "sweep=mine")
    planned = slimsweep(*sweep, f"model.path={models}", "dry_run=true")
    assert planned.status == 1 and "2 of 4 jobs of mine cannot run" in planned.err
    assert "2 jobs, 0 done, 2 to run" in planned.out and "2 jobs: The tokenizer in" in planned.out
    answer = slimsweep(*sweep, f"model.path={models}")
    assert answer.status == 1 and "Traceback" not in answer.err
    assert "2 of 4 jobs of mine have no record" in answer.err and "2 jobs: The tokenizer in" in answer.err
    store = Store(tmp_path / "outputs")
    assert [job.state for job in store.status("mine")] == ["done", "done"]
    assert not (store.sweeps_dir / "mine" / ".complete").exists()
    alone = slimsweep(*sweep, f"model.path={tmp_path}/bad")
    assert alone.status == 1 and "nothing was started" in alone.err
