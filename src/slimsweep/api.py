"""Compression for programs and notebooks, in three lines: `slimsweep.compress`.

Settings have the names of the command line. Records as a frame are `slimsweep.records`, in records/frame.py.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slimsweep.errors import ConfigError
from slimsweep.paths import config_root

CHOICES = ("calibration", "data")
"""Config groups that a program chooses a member of by its name."""
TEXT_TOKENS = 512
"""Longest calibration sequence that is cut of given texts."""


@dataclass(frozen=True)
class CompressedModel:
    """A model after its chain, and what each stage did."""

    model: Any
    """The transformers module, ready for forwards."""
    tokenizer: Any
    stages: list[dict[str, Any]]
    """One entry a stage, as the field `stages` of a record has it: settings, sparsity, seconds, notes."""
    _wrapped: Any = field(repr=False)

    def save(self, folder: str | Path) -> Path:
        """Write the model and its tokenizer into a new folder; returns the folder.

        `slimsweep.load` reads it. Where widths are equal and weights are not packed, `from_pretrained` does too.

        Raises:
            ModelError: the folder exists and is not empty, or cannot be written.
        """
        from slimsweep.models.storage import saved_model

        saved_model.save(self._wrapped, Path(folder))
        return Path(folder)

    def __repr__(self) -> str:
        chain = " + ".join(stage["technique"] for stage in self.stages) or "dense"
        return f"CompressedModel({type(self.model).__name__}, {chain})"


def compress(
    model: Any,
    technique: str | Sequence[str],
    ratio: float | None = None,
    calibration: str | Sequence[str] | None = None,
    **settings: Any,
) -> CompressedModel:
    """Compress a model by one technique or a chain, without Hydra and without a record.

    A module that is given stays as it is: its copy is compressed.

    Args:
        model: a transformers module (give `tokenizer` too where a stage reads text), a name of conf/model, a folder or
            GGUF file, or a hub id ORG/NAME.
        technique: a name of conf/technique, or several in order.
        ratio: fraction to remove, for techniques that have a ratio; None: the default, 0.5.
        calibration: a name of conf/calibration, a file of texts, or a list of texts; None: the default.
        settings: knobs of the techniques by name (`block_columns=64`); knobs of one stage of a chain as a mapping
            (`nf4={"block_size": 32}`); other settings of conf/config.yaml (`seed=1`, `device="cpu"`,
            `**{"calibration.tokens": 64}`); and `tokenizer`.

    Raises:
        ConfigError: the faults, before weights are loaded. Those of the settings come together; those of a chain that
            does not suit its model come once the settings can be read.
    """
    from slimsweep.pipeline.chain import compress as run_chain

    tokenizer, chain = settings.pop("tokenizer", None), [technique] if isinstance(technique, str) else list(technique)
    with _texts_as_file(calibration) as texts:
        choices, values, faults = _settings(chain, ratio, texts, settings)
        try:
            experiment = _experiment(model, tokenizer, chain, (choices, values))
            if isinstance(texts, Mapping):
                experiment = _fitted_to_texts(experiment, settings)
            experiment.check()
        except ConfigError as error:
            raise ConfigError([*faults, *error.faults]) from error
        if faults:
            raise ConfigError(faults)
        done = run_chain(experiment)
    return CompressedModel(done.model.module, done.model.tokenizer, done.stages, done.model)


def _settings(
    chain: Sequence[str], ratio: float | None, calibration: Any, settings: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Choices of groups, values of settings by dotted name, and faults: knobs that no stage has, or that several have.

    A chain with an unknown technique gets no faults of knobs: the one of its name says what to mend.
    """
    from slimsweep.pipeline.compose import KEYS, knobs_of

    choices: dict[str, str] = {"tracker": "none", "evaluation": "cost"}  # nothing is measured
    values: dict[str, Any] = {"cache": "off"}
    faults = []
    if isinstance(calibration, Mapping):
        choices["calibration"] = "text"
        values |= {f"calibration.{name}": value for name, value in calibration.items()}
    elif calibration:
        is_file = Path(calibration).suffix and Path(calibration).is_file()
        choices["calibration"] = "text" if is_file else calibration
        values |= {"calibration.path": str(Path(calibration).resolve())} if is_file else {}
    if ratio is not None:
        values["ratio"] = ratio
        if not any("ratio" in knobs_of(name) for name in chain):
            faults.append(f"ratio={ratio}: none of {', '.join(chain)} has a ratio; leave it out")
    for name, value in settings.items():
        owners = [stage for stage in chain if name in knobs_of(stage)]
        if name in chain and isinstance(value, Mapping):
            values |= {f"technique.{name}.{knob}": one for knob, one in value.items()}
        elif name in CHOICES and isinstance(value, str):
            choices[name] = value
        elif len(owners) == 1:
            values[f"technique.{owners[0]}.{name}"] = value
        elif len(owners) > 1:
            faults.append(f"{name} is a knob of {' and '.join(owners)}: give it as {owners[0]}={{{name!r}: {value!r}}}")
        elif "." in name or name in KEYS:
            values[name] = value
        else:
            faults.append(
                f"{name} is neither a knob of {', '.join(chain) or 'a stage'} nor a setting of conf/config.yaml"
            )
    is_known = all(knobs_of(name) for name in chain)
    return choices, values, faults if is_known else []


def _experiment(
    model: Any, tokenizer: Any, chain: Sequence[str], composed: tuple[dict[str, str], dict[str, Any]]
) -> Any:
    """The experiment of a program's settings, on its model."""
    from omegaconf import OmegaConf

    from slimsweep.cli.app import composed as composed_config
    from slimsweep.pipeline.experiment import Experiment

    choices, values = composed
    own, module_settings = _model_choice(model), {}
    if not isinstance(own, dict):  # a module
        own, module_settings = {"model": "random"}, {"dtype": _dtype_of(model), "device": _device_of(model)}
    model_values = {name: value for name, value in own.items() if name != "model"}
    overrides = [f"{group}={choice}" for group, choice in ({"model": own["model"]} | choices).items()]
    overrides.append(f"technique=[{','.join(chain)}]")
    config = composed_config(overrides)
    for name, value in (model_values | module_settings | values).items():
        OmegaConf.update(config, name, list(value) if isinstance(value, tuple) else value, force_add=True)
    experiment = Experiment.of(config, [overrides[-1]], {"model": own["model"], **choices})
    if not module_settings:
        return experiment
    return replace(experiment, model=_in_memory(model, tokenizer, str(experiment.cache_dir)))


def _fitted_to_texts(experiment: Any, settings: Mapping[str, Any]) -> Any:
    """The experiment with calibration sequences that are no longer than the given texts and the model allow."""
    from slimsweep.models.batch_sizes import longest_context

    tokenizer = experiment.model.tokenizer()
    if "calibration.tokens" in settings or tokenizer is None:
        return experiment
    drawn = experiment.calibration
    found = len(experiment.corpora.token_ids({"name": drawn.corpus, "path": drawn.path}, tokenizer))
    longest = longest_context(experiment.model.config()) or TEXT_TOKENS
    return replace(experiment, calibration=replace(drawn, tokens=max(1, min(TEXT_TOKENS, longest, found))))


def _model_choice(model: Any) -> dict[str, Any] | Any:
    """The choice of conf/model for a name, folder, file or hub id, with its settings; a module as it is.

    Raises:
        ConfigError: the text is none of these.
    """
    if not isinstance(model, str | Path):
        return model
    text = str(model)
    named = sorted(file.stem for file in (config_root() / "conf" / "model").glob("*.yaml"))
    if text in named:
        return {"model": text}
    path = Path(text).expanduser()
    if path.exists():
        task = _task_of_folder(path)
        return {"model": "local", "model.path": str(path.resolve()), **({"model.task": task} if task else {})}
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return {"model": "hub", "model.id": text}
    raise ConfigError([f"model={text!r} is no folder or file, no hub id ORG/NAME, and none of {', '.join(named)}"])


def _task_of_folder(path: Path) -> str | None:
    """The task that a folder's config names by its class; None where it names none that is known."""
    from slimsweep.models.task import TASKS

    try:
        named = json.loads((path / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    except (OSError, ValueError):
        return None
    return next((name for name, task in TASKS.items() if task.knows(named[0])), None)


def _in_memory(module: Any, tokenizer: Any, cache_dir: str) -> Any:
    from slimsweep.models.sources.in_memory import InMemoryModel
    from slimsweep.models.task import TASKS

    if not hasattr(module, "config") or not hasattr(module, "parameters"):
        raise ConfigError([f"model is a {type(module).__name__}: give a transformers module, a name, or a folder"])
    task = next((name for name, one in TASKS.items() if one.knows(type(module).__name__)), "causal_lm")
    name = Path(getattr(module.config, "name_or_path", "") or "in_memory").name
    return InMemoryModel(name=name, cache_dir=cache_dir, task=task, module=module, given_tokenizer=tokenizer)


def _dtype_of(module: Any) -> str:
    return str(next(one.dtype for one in module.parameters() if one.is_floating_point())).removeprefix("torch.")


def _device_of(module: Any) -> str:
    return str(next(module.parameters()).device)


@contextmanager
def _texts_as_file(calibration: Any) -> Iterator[Any]:
    """Given texts as settings of a calibration file that lasts as long as the block; anything else as it is.

    Raises:
        ConfigError: the list is empty or holds something else than texts.
    """
    if calibration is None or isinstance(calibration, str | Path):
        yield calibration
        return
    texts = list(calibration)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError(["calibration: give a name, a file, or a list of texts that is not empty"])
    with tempfile.TemporaryDirectory(prefix="slimsweep-") as folder:
        path = Path(folder) / "texts.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        yield {"path": str(path), "corpus": "texts"}
