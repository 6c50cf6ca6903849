"""Registry of export formats: the files of this folder that hold a `Format`."""

import dataclasses
import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from typing import Any

import yaml

from slimsweep.errors import ExportError
from slimsweep.export.base import Format
from slimsweep.hints import allowed_names
from slimsweep.models.language_model import LanguageModel


@functools.cache
def formats() -> dict[str, type[Format]]:
    """Every format by its word, in alphabetical order."""
    package = importlib.import_module(__package__)
    found: dict[str, type[Format]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{__package__}.{info.name}")
        for value in vars(module).values():
            is_own = isinstance(value, type) and value.__module__ == module.__name__
            if is_own and issubclass(value, Format) and value is not Format:
                found[info.name] = value
    return {name.replace("_", "-"): found[name] for name in sorted(found)}


def format_of(name: str, settings: Sequence[str] = ()) -> Format:
    """A format by its word, with options given as KEY=VALUE.

    Raises:
        ExportError: an unknown format or option, or a bad value; all faults together.
    """
    if name not in formats():
        raise ExportError(f"there is no format {name!r}. {allowed_names(name, list(formats()), 'Formats')}")
    kind, faults = formats()[name], []
    known = [field.name for field in dataclasses.fields(kind)]
    values: dict[str, Any] = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator or key not in known:
            options = ", ".join(f"{one}=" for one in known) or "none"
            faults.append(f"{setting!r} is no option of {name} (options: {options})")
            continue
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            faults.append(f"{setting!r}: {value!r} cannot be read")
    if faults:
        raise ExportError("; ".join(faults))
    try:
        return kind(**values)
    except ValueError as error:  # a format checks its options as it is made; see checks.refuse
        raise ExportError(f"{name}: {error}") from error


def missing_packages(format: Format) -> list[str]:
    """Reasons why a format cannot run here: packages that are not installed, and the command that installs them."""
    missing = [name for name in format.packages if importlib.util.find_spec(name) is None]
    if not missing:
        return []
    return [f"{format.name} needs {', '.join(missing)}, not installed here: pip install 'slimsweep[export]'"]


def expressing(model: LanguageModel) -> list[str]:
    """Formats that can express a model with their default options."""
    return [name for name, kind in formats().items() if not kind().faults(model)]


def refuse(format: Format, model: LanguageModel) -> None:
    """Raise ExportError with every reason why a format cannot express a model, and the formats that can."""
    faults = [*missing_packages(format), *format.faults(model)]
    if faults:
        others = [name for name in expressing(model) if name != format.name]
        works = f"Formats that can: {', '.join(others)}." if others else "No other format can."
        raise ExportError(f"this model cannot be exported as {format.name}: {'; '.join(faults)}. {works}")
