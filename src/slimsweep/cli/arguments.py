"""Words of a launch before Hydra parses them: names stay text, `~` is the home folder, a sweep file is a multirun.

Hydra reads `sweep=1e5` as a number and cannot read `~`, `=` or letters beyond ASCII in a plain value. It also applies
every plain `KEY=VALUE` of a multirun to the defaults first, where the technique that has the key may not be chosen.
"""

import logging
import re
import shlex
from fnmatch import fnmatchcase
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import OverrideParseException

from slimsweep.paths import config_root
from slimsweep.pipeline.compose import FORMER_KNOBS, knobs_of

log = logging.getLogger(__name__)

FOLDERS = ("outputs_dir", "data_dir", "cache_dir")
TEXT = (
    *("sweep", *FOLDERS, "model.name", "model.id", "model.revision", "model.path", "model.baseline", "model.package"),
    *(
        "model.file",
        "model.release",
        "model.tokenizer_path",
        "tracker.*project",
        "tracker.*entity",
        "tracker.*tags",
        "tracker.*notes",
    ),
    *("tracker.*experiment", "tracker.*uri", "tracker.*folder"),
    *(
        "calibration.corpus",
        "calibration.dataset",
        "calibration.path",
        "data.corpus",
        "data.dataset",
        "data.path",
        "data.target_path",
        "data.*column",
        "calibration.target_path",
        "calibration.*column",
        "evaluation.corpora",
        "evaluation.tasks",
        "evaluation.metrics.*.corpora",
        "evaluation.metrics.*.tasks",
        "evaluation.metrics.*path",
        "evaluation.metrics.*column",
        "technique.*.path",
    ),
)
"""Keys whose values are names, paths or notes: text, however they look."""
NUMBER = r"[+-]?[\d_]*\.?[\d_]*(?:(?<=\d)e[+-]?[\d_]+)?|[+-]?(?:inf|nan)|true|false"
"""Words that Hydra reads as numbers or booleans, in any case of letters."""
BEFORE = r"(^=\s*|[,\[(]\s*|[{,]\s*\w+\s*:\s*)"
"""Text before a whole word: the first `=`, a comma or bracket, or a key of `{name: word}`."""
WORD = re.compile(rf"{BEFORE}({NUMBER})(?=\s*(?:[,\])}}]|$))", re.IGNORECASE)
HOME = re.compile(rf"{BEFORE}(~[^,\[\](){{}}]*)(?=[,\])}}]|$)")
OTHER_COMMANDS = re.compile(
    r"(-h|--help|--hydra-help|--version|-c|--cfg|-i|--info|-r|--run|-sc|--shell-completion)(=|$)"
)


VALUED_OPTIONS = (
    *("-c", "--cfg", "-p", "--package", "-cd", "--config-dir"),
    *("-cp", "--config-path", "-cn", "--config-name", "--experimental-rerun"),
)
"""Options whose value is the next word."""
INFO_OPTIONS = ("-i", "--info")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""Values of an option that may have none."""


def from_shell(arguments: list[str]) -> list[str]:
    """The words of the command line as Hydra is to read them."""
    arguments = _with_tracker_names(_options_first(arguments))
    read = [readable(argument) for argument in arguments if argument not in [f"{name}=" for name in FOLDERS]]
    if any(map(OTHER_COMMANDS.match, read)):
        return read
    asks = ("-m", "--multirun", "hydra.mode=MULTIRUN")
    is_sweep_file = any(re.match(r"\+*sweeps=", argument) for argument in read)
    has_mode = any(argument.startswith("hydra.mode=") for argument in read)
    if not any(argument in asks for argument in read) and (not is_sweep_file or has_mode):
        return read
    # First, for the reason in _options_first. Without -m Hydra would run one job if it cannot find the mode. A fault
    # in the sweep file would then be reported as one of the command line.
    return ["-m", *(_left_to_the_jobs(argument) for argument in read if argument not in asks[:2])]


def _options_first(arguments: list[str]) -> list[str]:
    """Options with their values before all settings, since argparse takes no option between two settings."""
    options, settings = [], []
    for place, word in enumerate(arguments):
        before = arguments[place - 1] if place else ""
        is_value = before in VALUED_OPTIONS or (before in INFO_OPTIONS and word in INFO)
        (options if is_value or word.startswith("-") else settings).append(word)
        if word in INFO_OPTIONS and arguments[place + 1 : place + 2] not in [[one] for one in INFO]:
            options[-1] = "--info=all"  # else argparse takes the first setting as its value
    return options + settings


def _with_tracker_names(arguments: list[str]) -> list[str]:
    """Words in which a setting of the only tracker, `tracker.project=mine`, names it: `tracker.wandb.project=mine`."""
    chosen = next((word.partition("=")[2] for word in reversed(arguments) if word.startswith("tracker=")), "wandb")
    names = chosen.strip("[] ").split(",")
    known = {file.stem for file in (config_root() / "conf" / "tracker").glob("*.yaml")}
    if len(names) != 1 or names[0] not in known:
        return arguments
    single = re.compile(rf"^tracker\.(?!(?:{'|'.join(known)})\.)(?=\w+=)")
    return [single.sub(f"tracker.{names[0]}.", argument) for argument in arguments]


def readable(argument: str) -> str:
    """A word with home folders written out and, where its key holds text, numbers in quotes."""
    option, equal, folder = argument.partition("=")
    if argument.startswith("-"):  # --config-dir=~/conf2
        return f"{option}={_home_folder(folder)}" if folder.startswith("~") else argument
    if not equal or "'" in folder or '"' in folder:
        return argument
    option = _todays_knob(option)
    key = option.lstrip("+")
    value = HOME.sub(lambda match: match[1] + _quoted(_home_folder(match[2])), f"={folder}")
    if any(fnmatchcase(key, pattern) for pattern in TEXT) and (value.startswith("=choice(") or "(" not in value):
        value = WORD.sub(lambda match: match[1] + (_quoted(match[2]) if match[2] else ""), value)
    return option + value


def _todays_knob(option: str) -> str:
    """A key with today's word for a knob that had another one, where the technique or model has today's alone."""
    head, _, knob = option.rpartition(".")
    if head.lstrip("+") == "model" and knob == "auto_class":
        log.warning("%s is called model.%s now", option.lstrip("+"), FORMER_KNOBS[knob])
        return f"{head}.{FORMER_KNOBS[knob]}"
    new, stage = FORMER_KNOBS.get(knob), re.fullmatch(r"\+*technique\.(\w+)", head)
    if not (new and stage):
        return option
    for name in (stage[1], re.sub(r"_\d+$", "", stage[1])):
        known = knobs_of(name)
        if new in known and knob not in known:
            log.warning("%s is called %s.%s now", option.lstrip("+"), head.lstrip("+"), new)
            return f"{head}.{new}"
    return option


def _home_folder(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # no such user: the text as it is
        return path


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def is_knob(override: Override) -> bool:
    """Whether an override sets a field of a choice (`model.path`), which another choice may not have."""
    key = override.key_or_group
    return "." in key and override.package is None and not key.startswith("hydra.") and not override.is_delete()


def _left_to_the_jobs(argument: str) -> str:
    """A plain knob as a choice of one value: Hydra then hands it to the jobs and keeps it out of the defaults."""
    if argument.startswith("-") or "=" not in argument:
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
    except Exception:  # whatever is wrong with it, Hydra says when it parses all words
        return argument
    if not is_knob(override) or override.is_sweep_override():
        return argument
    if override.value() is None:  # which choice() does not take; equal jobs are one
        return f"{override.get_key_element()}=null,null"
    return f"{override.get_key_element()}=choice({override.get_value_element_as_str() or _quoted('')})"


def advice(error: OverrideParseException) -> str:
    """One sentence on a word that Hydra cannot parse, with the word to type instead where quotes are enough."""
    word = str(error.override)
    key, equal, value = word.partition("=")
    if not equal or not key.strip("+~ "):
        return f"{word!r} is no setting: write KEY=VALUE, without spaces around the = (such as technique=wanda)"
    quoted = f"{key}={_quoted(value)}"
    try:
        OverridesParser.create().parse_override(quoted)
    except Exception:  # quotes do not help, so it is the key
        return f"{word!r} cannot be read: {key!r} is no key (letters, digits, _ and dots)"
    in_shell = f'"{quoted}"' if not re.search(r'["$`\\!]', quoted) else shlex.quote(quoted)
    return (
        f"{word!r} cannot be read: its value has a character with a meaning of its own. Quote the value for Hydra, and "
        f"the word for the shell: {in_shell}"
    )
