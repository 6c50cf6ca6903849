"""Format `ollama`: a GGUF file and the Modelfile from which `ollama create` makes a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from slimsweep.errors import ExportError
from slimsweep.export.base import Content, Sample
from slimsweep.export.gguf import FILE, Gguf
from slimsweep.export.llama_cpp.architecture import ARCHITECTURES, metadata
from slimsweep.export.llama_cpp.chat_template import Messages, Turns, turns_of
from slimsweep.export.llama_cpp.vocabulary import without_beginning
from slimsweep.models.language_model import LanguageModel

MODELFILE = "Modelfile"
PLAIN_TEMPLATE = "{{ .Prompt }}"
"""Template of a model without a chat template: the text as it is."""
PARAMETERS = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "repetition_penalty": "repeat_penalty"}
"""ollama's names of transformers' generation settings."""
LONGEST_CONTEXT = 8192
"""Context that a Modelfile asks for at most: ollama reserves its memory when it loads the model."""


@dataclass(frozen=True, kw_only=True)
class Ollama(Gguf):
    """A GGUF file with a Modelfile."""

    summary: ClassVar[str] = "a GGUF file and a Modelfile with template and parameters, for ollama"

    def faults(self, model: LanguageModel) -> list[str]:
        faults = super().faults(model)
        if not faults:
            try:
                chat_turns(model.tokenizer)
            except ExportError as error:
                faults.append(str(error))
        return faults

    def write(self, content: Content, folder: Path) -> None:
        super().write(content, folder)
        (folder / MODELFILE).write_text(modelfile(content.model), encoding="utf-8")

    def verify(self, folder: Path, sample: Sample) -> list[str]:
        written = f"written, not tried in ollama: {MODELFILE}; type: ollama create NAME -f {MODELFILE}"
        return [*super().verify(folder, sample), written]


def modelfile(model: LanguageModel) -> str:
    """Modelfile of a model: where the weights are, the template in Go's language, and parameters."""
    turns = chat_turns(model.tokenizer)
    lines = [f"FROM ./{FILE}", f'TEMPLATE """{turns.go_template() if turns else PLAIN_TEMPLATE}"""']
    for name, value in _parameters(model, turns).items():
        lines += [f"PARAMETER {name} {one}" for one in (value if isinstance(value, list) else [value])]
    return "\n".join(lines) + "\n"


def chat_turns(tokenizer: Any) -> Turns | None:
    """Fixed text of a tokenizer's chat template; None where it has none.

    Raises:
        ExportError: the template is not fixed text around messages.
    """
    if not isinstance(tokenizer.chat_template, str):
        return None

    def render(messages: Messages, asks: bool) -> str:
        from jinja2 import TemplateError

        try:
            prompt = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asks)
        except (TemplateError, TypeError, ValueError) as error:
            raise ExportError(f"the chat template cannot be written for ollama: {error}, for {messages}") from error
        return without_beginning(tokenizer, prompt)

    return turns_of(render)


def _parameters(model: LanguageModel, turns: Turns | None) -> dict[str, Any]:
    settings = getattr(model.module, "generation_config", None)
    found = {}
    for name, theirs in PARAMETERS.items():
        value = getattr(settings, name, None)
        if value is not None and getattr(settings, "do_sample", False):
            found[theirs] = value
    architecture = ARCHITECTURES[model.config.model_type]
    context = metadata(architecture, model.config)[f"{architecture.name}.context_length"]
    found["num_ctx"] = min(context, LONGEST_CONTEXT)
    stops = {model.tokenizer.eos_token} | ({turns.assistant[1].strip()} if turns else set())
    return found | {"stop": [quoted(stop) for stop in sorted(filter(None, stops))]}


def quoted(text: str) -> str:
    """A text as a Modelfile holds it: ollama takes quotes off and reads no escapes, so a quote inside needs three."""
    mark = '"""' if '"' in text else '"'
    return f"{mark}{text}{mark}"
