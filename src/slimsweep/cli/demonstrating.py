"""The command `slim demo`: a web page on which the dense model and those of records answer one prompt side by side."""

import importlib.util
from typing import Annotated

import typer

from slimsweep.cli.console import prepare_for_models
from slimsweep.cli.outputs import ConfigDir, DataDir, Outputs, own_folders, store_of
from slimsweep.errors import DemoError


def demo(
    keys: Annotated[
        list[str],
        typer.Argument(metavar="KEY...", help="Keys of records, or their beginnings; `slim table` lists them."),
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to serve at; 0.0.0.0 opens the page to all that reach this machine.")
    ] = "127.0.0.1",
    tokens: Annotated[
        int, typer.Option(min=1, max=512, help="Longest answer in tokens; a slider on the page changes it.")
    ] = 64,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    data_dir: DataDir = None,
    config_dir: ConfigDir = None,
    outputs: Outputs = None,
) -> None:
    """A web page: one prompt, answered by the dense model and the compressed ones side by side.

    Under each answer stand its speed, its memory and the size of its weights. A mark shows the first token that differs
    from the dense model's. The dense model is added by itself. Models kept by save_model=true or by the stage cache are
    read, others are computed again. Ctrl-C ends the page. Needs: pip install 'slimsweep[demo]'.
    """
    from slimsweep.demo.address import refuse_address

    if importlib.util.find_spec("gradio") is None:
        raise DemoError("slim demo needs gradio, which is not installed: pip install 'slimsweep[demo]'")
    refuse_address(host, port)
    prepare_for_models()
    from slimsweep.demo.failure import loading
    from slimsweep.demo.lineup import Lineup

    lineup = Lineup.of(store_of(outputs), keys, own_folders(data_dir, config_dir))
    models, shown = lineup.load(), []
    for title in lineup.titles:
        typer.echo(f"loading {title}")
        with loading(f"{lineup.model_name} {title}"):
            shown.append(next(models))
    from slimsweep.demo.page import page, serve

    typer.echo(f"open http://{host}:{port} (Ctrl-C ends it)")
    serve(page(shown, lineup.model_name, tokens), host, port, open_page)
