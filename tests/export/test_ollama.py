import json
import shutil
import subprocess

import pytest
import small_tokenizers
from conftest import meta_model

from slimsweep.errors import ExportError
from slimsweep.export.base import Content
from slimsweep.export.llama_cpp.chat_template import CONVERSATIONS, turns_of
from slimsweep.export.ollama import MODELFILE, Ollama, chat_turns, modelfile, quoted

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}"
    "{% for message in loop_messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') }}"
    "{{ '\n' + (first if loop.first else '') + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    + small_tokenizers.CHATML
)
NUMBERED = "{% for message in messages %}{{ loop.index ~ ': ' ~ message['content'] ~ '\n' }}{% endfor %}"
TEMPLATES = {"chatml": small_tokenizers.CHATML, "default system": DEFAULT_SYSTEM, "gemma": GEMMA}
PROGRAM = """
package main

import (
    "encoding/json"
    "os"
    "strings"
    "text/template"
)

type Message struct{ Role, Content string }
type Input struct {
    Template      string
    Conversations [][]Message
}

func main() {
    var input Input
    if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
        panic(err)
    }
    parsed := template.Must(template.New("").Parse(input.Template))
    prompts := []string{}
    for _, messages := range input.Conversations {
        var out strings.Builder
        if err := parsed.Execute(&out, map[string]any{"Messages": messages}); err != nil {
            panic(err)
        }
        prompts = append(prompts, out.String())
    }
    json.NewEncoder(os.Stdout).Encode(prompts)
}
"""


def tokenizer_with(template):
    if template == GEMMA:
        return small_tokenizers.sentence_piece(prefix=False, chat_template=template)
    return small_tokenizers.byte_level("gpt-2", chat_template=template)


def test_fixed_text_of_a_template_is_found():
    turns = chat_turns(tokenizer_with(DEFAULT_SYSTEM))
    assert turns.begin == "<|im_start|>system\nYou are helpful.<|im_end|>\n"
    assert turns.begin_system == "<|im_start|>system\n"
    assert turns.user == ("<|im_start|>user\n", "<|im_end|>\n")
    assert turns.answer == "<|im_start|>assistant\n"


def test_a_system_text_in_the_turn_of_the_user_is_found():
    turns = chat_turns(tokenizer_with(GEMMA))  # its beginning token is left to ollama
    assert turns.shares_turn and turns.begin == ""
    assert (turns.begin_system, turns.end_system) == ("<start_of_turn>user\n", "\n\n")


def test_a_template_that_is_not_fixed_text_is_refused():
    with pytest.raises(ExportError, match="cannot be written for ollama"):
        chat_turns(tokenizer_with(NUMBERED))


def test_a_template_that_drops_a_message_is_refused():
    with pytest.raises(ExportError, match="it writes a message as 'nothing'"):
        turns_of(lambda messages, asks: "nothing")


def test_the_modelfile_names_file_template_and_parameters(tiny, tmp_path):
    tiny.tokenizer = small_tokenizers.byte_level("gpt-2", size=258, chat_template=small_tokenizers.CHATML)
    tiny.module.generation_config.update(do_sample=True, temperature=0.6)
    text = modelfile(tiny)
    assert text.startswith("FROM ./model.gguf\nTEMPLATE")
    assert "PARAMETER temperature 0.6\n" in text and "PARAMETER num_ctx 128\n" in text
    assert 'PARAMETER stop "<|im_end|>"\n' in text


def test_a_model_without_a_chat_template_gets_the_plain_prompt(tiny, tmp_path):
    Ollama(type="Q8_0").write(Content(model=tiny, record={"key": "a"}, calibration=dict), tmp_path)
    assert 'TEMPLATE """{{ .Prompt }}"""' in (tmp_path / MODELFILE).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TEMPLATES, "smollm2"])
def test_go_writes_ten_conversations_as_the_chat_template_does(name, tmp_path, request):
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs Go: apt-get install golang-go")
    tokenizer = request.getfixturevalue("smollm2").tokenizer() if name == "smollm2" else tokenizer_with(TEMPLATES[name])
    (tmp_path / "main.go").write_text(PROGRAM)
    given = {"Template": chat_turns(tokenizer).go_template(), "Conversations": CONVERSATIONS}
    done = subprocess.run(
        [go, "run", "main.go"], input=json.dumps(given), capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    prompts = json.loads(done.stdout)
    assert len(prompts) == 10
    for messages, prompt in zip(CONVERSATIONS, prompts, strict=True):
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert prompt == expected.removeprefix("<s>"), messages


def test_the_context_is_that_of_the_file_so_a_sliding_window_limits_it(tiny):
    tiny.module.config.model_type = "mistral"
    tiny.module.config.sliding_window = 32
    assert "PARAMETER num_ctx 32\n" in modelfile(tiny)


def test_a_stop_with_a_quote_stands_in_three_quotes():
    assert quoted("<|im_end|>") == '"<|im_end|>"'
    assert quoted('""end') == '"""""end"""'


def test_a_template_that_is_not_fixed_text_is_a_fault_of_shapes_alone():
    model = meta_model("smollm2_135m")
    model.tokenizer = tokenizer_with(NUMBERED)
    (fault,) = Ollama(type="Q8_0").faults(model)
    assert "cannot be written for ollama" in fault
