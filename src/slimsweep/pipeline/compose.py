"""From composed settings to objects: unknown names, mistyped knobs and values that cannot be, each as a sentence."""

import dataclasses
import importlib.util
import logging
import math
import re
import typing
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from slimsweep.checks import choice_faults, flag_faults, is_number, whole_number_faults
from slimsweep.errors import SlimsweepError
from slimsweep.hints import allowed_names, did_you_mean
from slimsweep.paths import config_root
from slimsweep.pipeline.memory_plan import parse_budget

log = logging.getLogger(__name__)

DTYPES = ("auto", "bfloat16", "float16", "float32")
KEYS = frozenset(
    ("model", "technique", "ratio", "seed", "calibration", "data", "evaluation", "tracker", "device", "dtype")
    + (
        "on_error",
        "dry_run",
        "trial",
        "save_model",
        "outputs_dir",
        "data_dir",
        "cache",
        "cache_limit_gb",
        "cache_dir",
        "sweep",
    )
    + ("memory_budget", "offload", "keep_zeros", "fresh", "amend")
)
"""The keys of conf/config.yaml."""
DROPPED = frozenset(
    (
        "outputs_dir",
        "data_dir",
        "cache_dir",
        "cache",
        "cache_limit_gb",
        "tracker",
        "sweep",
        "on_error",
        "dry_run",
        "trial",
    )
    + ("save_model", "memory_budget", "fresh", "amend", "table")
)
"""Keys that decide no result, and stand in no record. `table` is a sweep file's own; `slim table` reads it there."""
FORMER_KNOBS = {"of": "relative_to", "layers": "blocks", "auto_class": "task"}
"""Words that knobs had before, accepted where today's word is a knob."""
UNNAMED_SWEEP = "multirun"
"""Name of a sweep given on the command line (`-m`) without `sweep=NAME`."""
SWITCH = {"on": True, "true": True, "off": False, "false": False}
"""Words of a switch, in lower case; YAML reads on and off as booleans, Hydra's command line as text."""


def build(where: str, fields: Any, faults: list[str]) -> Any:
    """Make the object of one `_target_`; what is wrong with it is appended to `faults` and None returned."""
    if not isinstance(fields, dict) or "_target_" not in fields:
        knobs = ", ".join(fields) if isinstance(fields, dict) else repr(fields)
        faults.append(
            f"{where} has settings ({knobs}) but nothing to apply them to: a knob was set for a choice that is not "
            f"there. Choose it too ({where.replace('.', '=', 1)}) or drop the setting."
        )
        return None
    target, settings = fields["_target_"], {name: value for name, value in fields.items() if name != "_target_"}
    try:
        part = get_class(target)
    except Exception as error:  # whatever importing somebody's module raises
        faults.append(f"{where}._target_={target!r} cannot be imported: {error}{_where_to_find(str(target))}")
        return None
    known = [field.name for field in dataclasses.fields(part) if field.init]
    for old, new in FORMER_KNOBS.items():
        if old in settings and old not in known and new in known:
            log.warning("%s.%s is called %s now", where, old, new)
            value = settings.pop(old)
            settings[new] = value if settings.get(new) in (None, _default_of(part, new)) else settings[new]
    unknown = [name for name in settings if name not in known]
    faults += [f"{where}.{name} is no setting. {allowed_names(name, known)}" for name in unknown]
    texts = {field.name: field.type for field in dataclasses.fields(part) if field.name in settings}
    misread = [fault for name, kind in texts.items() if (fault := _number_for_text(where, name, kind, settings))]
    faults += misread
    if unknown or misread:
        return None
    # 3.0 and 3 are one value of a number's field, and have one key.
    settings = {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in settings.items()}
    try:
        return part(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})
    except (TypeError, ValueError, SlimsweepError) as error:
        faults.append(f"{where}: {error}")
    return None


def _where_to_find(target: str) -> str:
    """Words on how Python finds the package of a target; empty where it finds it."""
    package = target.partition(".")[0]
    if not package.isidentifier() or importlib.util.find_spec(package):
        return ""
    return (
        f"\n    --config-dir finds YAML files only; Python finds no package {package!r}. Install it in this "
        f"environment (pip install -e ITS_PROJECT), or name the folder that holds {package}/: "
        "PYTHONPATH=FOLDER slimsweep ..."
    )


def tracker_from(fields: Any, faults: list[str]) -> Any:
    """The tracker of the settings below `tracker`: one, or several as one.

    Each choice lies below its own name; that of another package may lie at the top instead.
    """
    from slimsweep.records.tracking.several import Several

    named = {name: own for name, own in fields.items() if isinstance(own, dict) and "_target_" in own}
    top = {name: own for name, own in fields.items() if name not in named}
    found = [build(f"tracker.{name}", own, faults) for name, own in named.items()]
    found += [build("tracker", top, faults)] if top or not named else []
    if None in found:
        return None
    return found[0] if len(found) == 1 else Several(trackers=tuple(found))


def _number_for_text(where: str, name: str, kind: Any, settings: dict[str, Any]) -> str | None:
    """Turn a whole number in a field of text into text; a fault where the text can no longer be known.

    YAML reads 1.10, 1e5 and on as numbers and booleans, and 2:4 as 124 (2 x 60 + 4).
    """
    kinds, value = typing.get_args(kind) or (kind,), settings[name]
    if str not in kinds or not {int, float, bool}.isdisjoint(kinds):
        return None
    items = value if isinstance(value, list) else [value]
    misread = [item for item in items if isinstance(item, float | bool) or (name == "pattern" and type(item) is int)]
    if misread:
        typed = f"{misread[0] // 60}:{misread[0] % 60}" if name == "pattern" and misread[0] >= 60 else "..."
        return (
            f"{where}.{name}={misread[0]!r} is a number where text belongs: put the text in quotes in the YAML file "
            f"({name}: '{typed}'), or twice in a sweep's grid and on the command line (\"'{typed}'\")"
        )
    texts = [str(item) if type(item) is int else item for item in items]
    settings[name] = texts if isinstance(value, list) else texts[0]
    return None


def as_text(plain: dict[str, Any], faults: list[str]) -> None:
    """Turn whole numbers in the text keys at the top (`sweep=20241128`, folders) into text, in place."""
    for name in ("sweep", "outputs_dir", "data_dir", "cache_dir"):
        fault = _number_for_text("", name, str, plain)
        faults += [fault.removeprefix(".")] if fault else []


def rounded(value: Any) -> Any:
    """Settings with every float at 15 significant digits: one value has one key.

    Hydra's range(0.1,0.35,0.1) counts in binary fractions, so its third value is 0.30000000000000004. Any decimal
    number of up to 15 digits is unchanged.
    """
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return float(f"{value:.15g}")


def missing_knob(override: str, jobs: Sequence[DictConfig]) -> str:
    """The fault of an override whose key no job has, with the names that the jobs have in its place."""
    key = override.partition("=")[0].lstrip("+")
    nodes: list[Any] = list(jobs)
    path: list[str] = []
    for name in key.split("."):
        below = [node._get_node(name) for node in nodes if OmegaConf.is_dict(node) and name in node.keys()]  # noqa: SIM118
        if not below:
            break
        nodes, path = below, [*path, name]
    missing = ".".join(key.split(".")[: len(path) + 1])
    options = sorted({str(name) for node in nodes if OmegaConf.is_dict(node) for name in node} - {"_target_"})
    if missing == "technique":
        return f"{override}: no job has a technique; choose one ({key.split('.')[1]}) with technique=NAME"
    advice = did_you_mean(missing.rsplit(".", 1)[-1], options) or "Choose what has it, or drop the setting."
    return f"{override}: no job has {missing}; there are: {', '.join(options) or 'none'}. {advice}"


def choices_of(hydra_config: DictConfig) -> dict[str, Any]:
    """Hydra's choices by group, and below `packages` the packages whose configs it searched beside ours."""
    sources = [(source.schema, source.path) for source in hydra_config.runtime.config_sources]
    packages = [path for schema, path in sources if schema == "pkg" and not path.startswith("hydra")]
    return dict(hydra_config.runtime.choices) | {"packages": packages}


def knobs_of(technique: str) -> set[str]:
    """Knobs of a technique of conf/technique, by the fields of its class; none where there is no such technique."""
    file = config_root() / "conf" / "technique" / f"{technique}.yaml"
    found = re.search(r"_target_: (\S+)", file.read_text(encoding="utf-8")) if file.is_file() else None
    return {field.name for field in dataclasses.fields(get_class(found[1]))} if found else set()


def _default_of(part: type, name: str) -> Any:
    return next(field.default for field in dataclasses.fields(part) if field.name == name)


def repeated_stages(overrides: list[str]) -> list[str]:
    """Names given twice in a `technique=[...]` override, which Hydra would silently fold into one stage."""
    faults = []
    for override in OverridesParser.create().parse_overrides(overrides):
        value = override.value() if override.key_or_group == "technique" else None
        names = value if isinstance(value, list) else []
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            faults.append(
                f"technique lists {name!r} {names.count(name)} times, of which only one would run. "
                f"Give the second a name of its own: +technique@technique.{name}_2={name}"
            )
    return faults


def missing_keys(config: DictConfig) -> list[str]:
    needed = KEYS - {"technique", "sweep", "data_dir", "memory_budget"}
    return [
        f"{key} is not set: leave it at its default or give a value"
        for key in sorted(needed)
        if not _is_set(config, key)
    ]


def _is_set(config: DictConfig, key: str) -> bool:
    return key in config and (OmegaConf.is_interpolation(config, key) or config[key] is not None)


def unknown_keys(config: DictConfig) -> list[str]:
    """Keys at the top that nothing reads, and keys below `evaluation` that no metric refers to."""
    unknown = [str(key) for key in config if key not in KEYS | DROPPED]
    if "sweeps" in unknown:
        return ["the sweep file does not start with `# @package _global_`: put that on its first line"]
    if "metric" in unknown:
        return [
            "the file of a metric does not start with `# @package evaluation.metrics.NAME`: put that on its first line"
        ]
    faults = [f"{key} is no setting. {allowed_names(key, KEYS)}" for key in unknown]
    evaluation = OmegaConf.to_container(config.evaluation) if "evaluation" in config else {}
    read = set(re.findall(r"(?:\$\{|oc\.select:)evaluation\.(\w+)", str(evaluation.get("metrics"))))
    faults += [
        f"evaluation.{key} is no setting of this profile. {allowed_names(key, read)}"
        for key in evaluation
        if key not in {*read, "metrics"}
    ]
    return faults


def bad_scalars(plain: dict[str, Any]) -> list[str]:
    faults = whole_number_faults("seed", plain["seed"], least=0)
    if not faults and plain["seed"] >= 2**63:
        faults.append(f"seed={plain['seed']}: give a whole number below 2**63")
    if plain["sweep"] is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", str(plain["sweep"])):
        faults.append(f"sweep={plain['sweep']!r}: a name of letters, digits, and . _ - (it names a folder)")
    faults += choice_faults("dtype", [plain["dtype"]], DTYPES)
    faults += choice_faults("on_error", [plain["on_error"]], ("continue", "stop"))
    if str(plain["cache"]).lower() not in SWITCH:
        faults.append(f"cache={plain['cache']!r}: give on or off")
    if not is_number(plain["cache_limit_gb"]) or not 0 < plain["cache_limit_gb"] < math.inf:
        faults.append(
            f"cache_limit_gb={plain['cache_limit_gb']!r}: give a number of GB above 0; cache=off keeps nothing at all"
        )
    try:
        parse_budget(plain["memory_budget"])
    except ValueError as error:
        faults.append(str(error))
    for name in ("offload", "keep_zeros", "fresh", "amend", "dry_run", "trial", "save_model"):
        faults += flag_faults(name, plain[name])
    if plain["save_model"] is True and plain["model"].get("weights") == "meta":
        faults.append("save_model=true, but model.weights=meta has no weights to save: set one of them otherwise")
    return faults


def device_faults(device: str, offload: bool) -> list[str]:
    import torch

    count = torch.cuda.device_count()
    allowed = ["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    faults = []
    if device not in allowed:
        faults.append(f"device={device!r}: this machine has {count} CUDA devices; give one of {', '.join(allowed)}")
    if offload and (device == "cpu" or not count):
        faults.append("offload=true keeps weights in host memory beside a GPU; this run has no GPU: set offload=false")
    return faults


def portable(plain: dict[str, Any]) -> dict[str, Any]:
    """Settings as a record keeps them: without this machine's folders and without what decides no result."""
    config = {key: _without_targets(value) for key, value in plain.items() if key not in DROPPED}
    config["technique"] = config.get("technique") or {}
    config["model"] = {key: value for key, value in config["model"].items() if key != "cache_dir"}
    return config


def telling(overrides: list[str]) -> list[str]:
    """Overrides that say something of a result: without folders, trackers, sweeps and how a launch behaves."""
    return [word for word in overrides if re.split(r"[.=@]", word.lstrip("+~"))[0] not in DROPPED | {"sweeps", "hydra"}]


def _without_targets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_targets(item) for key, item in value.items() if key != "_target_"}
    return [_without_targets(item) for item in value] if isinstance(value, list) else value
