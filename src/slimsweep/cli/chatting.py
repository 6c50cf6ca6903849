"""The command `slim chat`: a conversation with one model in the terminal, or one answer for a script."""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from slimsweep.cli.console import prepare_for_models
from slimsweep.cli.formats import Shown, echo_json
from slimsweep.cli.outputs import ConfigDir, DataDir, Outputs, outputs_folder, own_folders, store_of
from slimsweep.errors import DemoError
from slimsweep.paths import OwnFolders

COMMANDS = "/reset forgets the conversation, /quit ends it; Ctrl-C stops an answer"


def chat(
    key: Annotated[
        str | None,
        typer.Argument(help="Key of a record, or its beginning; default: the default model of jobs, dense."),
    ] = None,
    dense: Annotated[bool, typer.Option("--dense", help="The dense model of this record instead.")] = False,
    prompt: Annotated[str | None, typer.Option(help="One prompt: print its answer and exit.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the likeliest token; above it tokens are drawn.")
    ] = 0.0,
    format: Annotated[
        Shown, typer.Option("--format", help="json: the answer of --prompt with its numbers.")
    ] = Shown.text,
    data_dir: DataDir = None,
    config_dir: ConfigDir = None,
    outputs: Outputs = None,
) -> None:
    """A conversation with the model of a record: answers come word by word, each followed by its speed.

    /reset forgets the conversation, /quit ends it. Ctrl-C stops an answer and not the program. A tokenizer without a
    chat template makes no turns: its model continues the text so far.
    """
    _refuse_mixtures(key, dense, prompt, format)
    prepare_for_models()
    title, answering, model = _loaded(key, dense, outputs, own_folders(data_dir, config_dir))
    from slimsweep.demo.conversation import Conversation

    conversation = Conversation(model, tokens, temperature, title)
    if prompt is None:
        _converse(conversation, title)
        return
    answer = conversation.ask(prompt)
    for piece in conversation.pieces(answer):
        if format == Shown.text:
            typer.echo(piece, nl=False)
    if format == Shown.json:
        asked = {"prompt": prompt, "temperature": temperature, "max_new_tokens": tokens}
        echo_json({"model": title, "key": answering, **asked, **conversation.as_dict(answer)})
        return
    typer.echo()
    typer.echo(_speed(answer), err=True)


def _refuse_mixtures(key: str | None, is_dense: bool, prompt: str | None, format: Shown) -> None:
    """Refuse options that do not go together."""
    if prompt is None and format == Shown.json:
        raise DemoError("--format json is for one answer: give --prompt TEXT too")
    if prompt is not None and not prompt.strip():
        raise DemoError("--prompt is empty: give some text")
    if is_dense and key is None:
        raise DemoError(
            "--dense is the dense model of a record: give its key, or leave out --dense for the default model"
        )


def _loaded(key: str | None, is_dense: bool, outputs: Path | None, folders: OwnFolders) -> tuple[str, str, Any]:
    """Title, key and model of a record, of its base, or of the default.

    Raises:
        DemoError, StoreError, ConfigError: no such record, it writes no text, or memory does not hold it.
    """
    from slimsweep.demo.failure import loading
    from slimsweep.pipeline.chain import compress

    if key is None:
        experiment = _default(outputs_folder(outputs))
        experiment.check()
        with loading(experiment.label):
            return experiment.label, experiment.key, compress(experiment).model
    from slimsweep.demo.lineup import writer_of
    from slimsweep.records.points import label

    rebuild = writer_of(store_of(outputs), key, folders)
    if is_dense:
        base = rebuild.experiment.base
        with loading(base.label):
            return base.label, base.key, compress(base).model
    record = rebuild.record
    title = f"{record['model']} {label(record)}"
    with loading(title):
        return title, record["key"], rebuild.model(trusts_digest=True)


def _default(outputs: Path) -> Any:
    """The experiment of conf/config.yaml without any technique."""
    from slimsweep.cli.app import composed
    from slimsweep.pipeline.experiment import Experiment

    words = ["technique=[]", "evaluation=cost", "tracker=none"]
    config = composed(words)
    config.outputs_dir = str(outputs)
    return Experiment.of(config, words)


def _converse(conversation: Any, title: str) -> None:
    """Read prompts and write answers until /quit or the end of the input."""
    with contextlib.suppress(ImportError):  # arrow keys and earlier lines, where Python has it
        import readline  # noqa: F401
    typer.echo(f"{title}. {COMMANDS}.")
    if not conversation.has_turns:
        typer.echo("This tokenizer has no chat template: the model continues the text so far.")
    while (line := _read()) is not None:
        word = line.strip()
        if word == "/quit":
            return
        if word == "/reset":
            conversation.reset()
            typer.echo("forgotten")
        elif word.startswith("/"):
            typer.echo(f"{word.split()[0]} is no command: {COMMANDS}")
        elif word:
            _answer(conversation, line)


def _read() -> str | None:
    """The next line; empty after Ctrl-C, None at the end of the input."""
    try:
        return input("> ")
    except EOFError:
        typer.echo()
    except KeyboardInterrupt:
        typer.echo("\n/quit ends the program")
        return ""
    return None


def _answer(conversation: Any, text: str) -> None:
    """Write the answer to one prompt, and its speed."""
    try:
        answer = conversation.ask(text)
    except DemoError as error:
        typer.echo(str(error))
        return
    if conversation.forgotten:
        typer.echo(
            f"[the conversation is too long for the model: its first {conversation.forgotten} turns are forgotten]"
        )
    try:
        with contextlib.closing(conversation.pieces(answer)) as pieces:
            for piece in pieces:
                typer.echo(piece, nl=False)
    except KeyboardInterrupt:
        typer.echo(" [stopped]", nl=False)
    except DemoError as error:
        typer.echo(f"\n[{error}]")
        if answer.is_failed:
            typer.echo("[this prompt is left out of the conversation; /reset forgets the earlier ones too]")
        return
    typer.echo(f"\n{_speed(answer)}")


def _speed(answer: Any) -> str:
    """Line on the speed of an answer."""
    speed = answer.tokens_per_second
    told = f", then {speed:.1f} tokens/s" if speed else ""
    return f"[{len(answer.token_ids)} tokens, first after {answer.first_seconds:.2f} s{told}]"
