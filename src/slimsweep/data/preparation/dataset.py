"""A dataset as `conf/dataset/NAME.yaml` describes it: its kind, sources of its splits, and how it is prepared."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slimsweep.checks import choice_faults, is_number, is_whole_number, number_faults, whole_number_faults
from slimsweep.data.rows import Rows
from slimsweep.errors import ConfigError, CorpusError
from slimsweep.hints import allowed_names, did_you_mean
from slimsweep.paths import config_root

COLUMNS = {
    "text": ("text",),
    "labelled": ("text", "label"),
    "pairs": ("source", "target"),
    "conversations": ("messages",),
    "problems": ("question", "answer"),
}
"""Standard columns of each kind of dataset."""
TRAIN = "train"
CLEANING = ("encoding", "unicode", "markup", "whitespace")
NORMALISATION = ("compatibility", "punctuation", "joints", "lowercase")
FEATURES = ("chars", "words", "sentences", "type_token_ratio", "tokens")
SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")
PLACES = ("splits",)
"""Fields of a dataset that say where its rows are; the digests of the sources stand for them in a key."""
TOKEN_FIELDS = ("tokenizer", "tokens", "form")
"""Fields that change no row unless a filter counts tokens."""
FORMS = {
    "text": ("causal",),
    "labelled": ("classification", "causal"),
    "pairs": ("seq2seq",),
    "conversations": ("causal",),
    "problems": ("causal",),
}
"""Forms of tokens that each kind can be stored in; the first is `auto`."""
SMALLEST_VOCABULARY = 262
"""256 bytes, five special tokens, and one pair to learn."""


@dataclass(frozen=True, kw_only=True)
class SplitSource:
    """Source of one official split. A local copy wins over the hub."""

    files: tuple[str, ...] = ()
    """Names below data_dir, or absolute paths; the first that exists is read."""
    target_files: tuple[str, ...] = ()
    """Text file with the target of each line, one for each of `files`; empty where a file has columns."""
    hub: dict[str, Any] = field(default_factory=dict)
    """Arguments of `datasets.load_dataset`; empty where the hub has no such split."""
    embedded: str = ""
    """Part of an installed package (data/reviews.py)."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns of this split where they differ from those of the dataset; `a.b` is field b of column a."""
    between: str | None = None
    """Regular expression of what is between two documents of a text file; None: each line is one."""
    hub_lines: bool = False
    """Rows of the hub are lines of one text too, to be joined and cut by `between`."""
    first: int | None = None
    """Number of rows read, from the start; None reads all."""

    def rows(self) -> Rows:
        """The place that rows are read from."""
        return Rows(files=self.files, hub=self.hub, embedded=self.embedded)

    def target_path(self, path: Path, data_dir: Path | None) -> Path | None:
        """File of the targets that belongs to a file of sources."""
        if not self.target_files:
            return None
        place = next(index for index, name in enumerate(self.files) if (data_dir or Path()) / name == path)
        return (data_dir or Path()) / self.target_files[place]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset and its preparation. Rows of official evaluation splits are cleaned, but never left out."""

    name: str
    kind: str
    """Kind of rows, one of COLUMNS."""
    splits: dict[str, SplitSource]
    """Official splits by name."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column of the source for each standard column that has another name there."""
    labels: tuple[str, ...] = ()
    """Names of the classes in the order of their numbers; only for labelled rows."""
    made: dict[str, float | int] = field(default_factory=dict)
    """Splits that are made of the training rows, by hash: all by fractions, or all by numbers of rows. Rows of one
    input stay together, so a split may have a few rows more than its number."""
    patterns: dict[str, str] = field(default_factory=dict)
    """Regular expression for a column of the source; where it matches, its first group stands for the column."""
    cleaning: tuple[str, ...] = ("encoding", "unicode", "whitespace")
    """Cleaning steps in order; `markup` removes HTML."""
    normalisation: tuple[str, ...] = ()
    """Steps that change the wording's form, in order."""
    duplicates: str = "remove"
    """Training rows that are equal after normalisation: remove all but the first, or keep."""
    overlaps: str = "remove"
    """Inputs that are in two splits: remove (from the training rows), remove_all (also from validation rows that are in
    the test), or refuse to prepare."""
    filters: dict[str, tuple[int | float | None, ...]] = field(default_factory=dict)
    """Least and most of a feature that a training row may have; null leaves one side open."""
    tokenizer: int | str | None = None
    """Folder or hub id of a tokenizer; a number trains a byte-level BPE of so many tokens on the training split."""
    tokens: int | None = None
    """Tokens of a window, or longest example; None stores no tokens."""
    form: str = "auto"
    """Form of the stored tokens; auto: the one of the kind."""

    def __post_init__(self) -> None:
        if faults := self.faults():
            raise ConfigError([f"dataset {self.name}: {fault}" for fault in faults])

    @property
    def standard_columns(self) -> tuple[str, ...]:
        """Columns of every prepared row."""
        return COLUMNS[self.kind]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the feature columns; a pair has those of its source and of its target, and the ratio of words."""
        names = FEATURES if self.tokenizer is not None else FEATURES[:-1]
        if self.kind != "pairs":
            return names
        return tuple(f"{side}_{name}" for side in self.standard_columns for name in names) + ("length_ratio",)

    def source_columns(self, split: str) -> dict[str, str]:
        """Column of the source for each standard column."""
        given = self.columns | self.splits[split].columns
        return {name: given.get(name, name) for name in self.standard_columns}

    def row_settings(self) -> dict[str, Any]:
        """Settings that decide the rows, as JSON has them."""
        fields = _plain(dataclasses.asdict(self))
        columns = {split: self.source_columns(split) for split in self.splits}
        reading = {
            split: [source.between, source.first, *(["hub_lines"] if source.hub_lines else [])]
            for split, source in self.splits.items()
        }
        left = {*PLACES, *(() if self._filters_tokens else TOKEN_FIELDS)}
        return {name: value for name, value in fields.items() if name not in left} | {
            "columns": columns,
            "reading": reading,
        }

    def settings(self) -> dict[str, Any]:
        """All settings but the places, as JSON has them."""
        fields = _plain(dataclasses.asdict(self))
        return self.row_settings() | {name: fields[name] for name in TOKEN_FIELDS}

    @property
    def _filters_tokens(self) -> bool:
        return any(name.endswith("tokens") for name in self.filters)

    def faults(self) -> list[str]:
        """Every field that holds what is not allowed."""
        if self.kind not in COLUMNS:
            return [f"kind={self.kind!r}. {allowed_names(str(self.kind), COLUMNS)}"]
        faults = [
            *_unknown("columns", self.columns, self.standard_columns),
            *_unknown("cleaning", self.cleaning, CLEANING),
            *_unknown("normalisation", self.normalisation, NORMALISATION),
            *_unknown("filters", self.filters, self.features),
            *choice_faults("duplicates", [self.duplicates], ("remove", "keep")),
            *choice_faults("overlaps", [self.overlaps], ("remove", "remove_all", "refuse")),
            *choice_faults("form", [self.form], ("auto", *FORMS[self.kind])),
            *whole_number_faults("tokens", self.tokens, least=2, is_optional=True),
            *(fault for name, given in self.filters.items() for fault in _range_faults(name, given)),
            *(fault for name, given in self.made.items() for fault in self._made_faults(name, given)),
            *self._mixed_faults(),
            *(fault for name, given in self._expressions() for fault in _expression_faults(name, given)),
            *(fault for name, given in self.patterns.items() for fault in _group_faults(f"patterns.{name}", given)),
        ]
        for split, source in self.splits.items():
            if not SPLIT_NAME.fullmatch(split):
                faults.append(f"splits.{split}: use small letters, digits and _ for the name of a split")
            if source.target_files and len(source.target_files) != len(source.files):
                faults.append(f"splits.{split}.target_files: name one file of targets for each of files")
        if self.kind == "labelled" and len(self.labels) < 2:
            faults.append("labels: name the two or more classes in the order of their numbers")
        if self.tokens is not None and self.tokenizer is None:
            faults.append(
                f"tokens={self.tokens} needs a tokenizer: add tokenizer=FOLDER, a hub id, or a number of tokens"
            )
        if is_number(self.tokenizer):
            faults += whole_number_faults("tokenizer", self.tokenizer, least=SMALLEST_VOCABULARY)
        return faults

    def _expressions(self) -> list[tuple[str, Any]]:
        between = [(f"splits.{split}.between", source.between) for split, source in self.splits.items()]
        return [one for one in between if one[1]] + [(f"patterns.{name}", one) for name, one in self.patterns.items()]

    def _made_faults(self, name: str, given: Any) -> list[str]:
        if not SPLIT_NAME.fullmatch(name) or name == TRAIN or name in self.splits:
            return [f"made.{name}: a made split has a name of its own, and {', '.join(self.splits)} are official"]
        if TRAIN not in self.splits:
            return [f"made.{name}: splits are made of training rows, and there is no split {TRAIN}"]
        if is_whole_number(given):
            return whole_number_faults(f"made.{name}", given)
        return number_faults(f"made.{name}", given, "(0, 1)", "or a whole number of rows")

    def _mixed_faults(self) -> list[str]:
        """Sizes that cannot hold together: the rows that a number takes would be missing from a fraction."""
        sizes = [one for one in self.made.values() if is_number(one)]
        whole = [one for one in sizes if is_whole_number(one)]
        if whole and len(whole) < len(sizes):
            return [f"made={self.made}: give fractions alone, or whole numbers of rows alone"]
        if not whole and sum(sizes) >= 1:
            return [f"made={self.made}: the fractions add up to {sum(sizes):g}, and training needs rows too"]
        return []


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _unknown(where: str, given: Any, allowed: Any) -> list[str]:
    return [
        f"{where}: there is no {name!r}. {allowed_names(str(name), allowed)}" for name in given if name not in allowed
    ]


def _range_faults(name: str, given: Any) -> list[str]:
    is_range = isinstance(given, tuple) and len(given) == 2 and all(end is None or is_number(end) for end in given)
    if is_range and None not in given and given[0] > given[1]:
        return [f"filters.{name}={list(given)}: the least is more than the most"]
    return [] if is_range else [f"filters.{name}={given!r}: give [LEAST,MOST]; null leaves one side open"]


def _expression_faults(name: str, given: Any) -> list[str]:
    try:
        re.compile(given)
    except (re.error, TypeError) as error:
        return [f"{name}={given!r} is no regular expression ({error})"]
    return []


def _group_faults(name: str, given: Any) -> list[str]:
    if _expression_faults(name, given) or re.compile(given).groups:
        return []
    return [f"{name}={given!r} has no group: put what stands for the column in brackets"]


def dataset_folder() -> Path:
    """Folder of the choices."""
    return config_root() / "conf" / "dataset"


def dataset_names() -> list[str]:
    """Names of all datasets."""
    return sorted(path.stem for path in dataset_folder().glob("*.yaml"))


def dataset_named(name: str, settings: Sequence[str] = ()) -> Dataset:
    """The dataset of this name, or of a YAML file of the user.

    Args:
        settings: words `KEY=VALUE` that change settings of its file, such as `filters.words=[3,200]`.

    Raises:
        CorpusError: unknown; near misses and all names are given.
        ConfigError: a setting that does not exist, or holds what is not allowed.
    """
    path = Path(name).expanduser() if name.endswith(".yaml") else dataset_folder() / f"{name}.yaml"
    if not path.is_file():
        raise CorpusError(
            f"no dataset {name!r}. {allowed_names(name, dataset_names(), 'Known')}; or give a YAML file of yours"
        )
    if not SPLIT_NAME.fullmatch(path.stem):
        raise CorpusError(f"{path}: use small letters, digits and _ for the name of a dataset")
    if wrong := [word for word in settings if not re.match(r"[A-Za-z_0-9.]+=", word)]:
        raise ConfigError([f"{word!r} is no setting: write KEY=VALUE, such as filters.words=[3,200]" for word in wrong])
    try:
        config = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(settings)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError([f"dataset {name}: its settings cannot be read ({error})"]) from error
    return dataset_of(path.stem, OmegaConf.to_container(config))


def description(name: str) -> str:
    """First sentence of the comment at the top of a dataset's file."""
    lines = (dataset_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line[1:].strip() for line in itertools.takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=\.) (?=[A-Z])", comment)[0]


def dataset_of(name: str, fields: dict[str, Any]) -> Dataset:
    """A dataset from plain values, as YAML has them.

    Raises:
        ConfigError: a field that does not exist, or holds what is not allowed.
    """
    known = {one.name for one in dataclasses.fields(Dataset)} - {"name"}
    places = {one.name for one in dataclasses.fields(SplitSource)}
    faults = [f"no setting {key!r}. {did_you_mean(key, known)}".rstrip() for key in fields if key not in known]
    given = fields.get("splits") or {}
    faults += [
        f"splits.{split}: no setting {key!r}. {did_you_mean(key, places)}".rstrip()
        for split, source in given.items()
        for key in source
        if key not in places
    ]
    faults += [] if given else ["splits: name at least one split with its source"]
    if faults:
        raise ConfigError([f"dataset {name}: {fault}" for fault in faults])
    splits = {split: SplitSource(**_shaped(SplitSource, source, faults)) for split, source in given.items()}
    rest = _shaped(Dataset, {key: value for key, value in fields.items() if key != "splits"}, faults)
    if faults:
        raise ConfigError([f"dataset {name}: {fault}" for fault in faults])
    return Dataset(name=name, splits=splits, **{"kind": "", **rest})


def _shaped(part: type, given: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """Values as fields of a dataclass: lists as tuples, one name as a tuple of one, the default for null."""
    shaped = {}
    for one in dataclasses.fields(part):
        value = given.get(one.name)
        if value is None:
            continue
        if one.default_factory is dict and not isinstance(value, dict):
            faults.append(f"{one.name}={value!r} is no mapping: write {one.name}.NAME=VALUE")
            continue
        if not isinstance(one.default, tuple):
            shaped[one.name] = _frozen(value)
            continue
        items = value if isinstance(value, list) else [value]
        faults += [f"{one.name}: YAML reads a word as {item}; quote it" for item in items if isinstance(item, bool)]
        shaped[one.name] = tuple(map(str, items))
    return shaped


def _frozen(value: Any) -> Any:
    """Lists as tuples."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
