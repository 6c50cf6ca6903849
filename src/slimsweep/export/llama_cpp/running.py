"""A GGUF file run by llama.cpp in this process: the server of the package xllamacpp, with one slot.

The server answers over HTTP on a port of the local machine. It gives probabilities of the next token only.
"""

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Running:
    """A model that llama.cpp has loaded."""

    def __init__(self, server: Any):
        self._server = server

    def token_ids(self, text: str) -> list[int]:
        """Ids of a text, with the beginning that the file asks for; names of special tokens are read as such."""
        return self._ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]

    def applied_template(self, messages: list[dict[str, str]]) -> str:
        """A conversation as the file's chat template writes it, ready for the answer."""
        return self._ask("/apply-template", {"messages": messages})["prompt"]

    def greedy(self, token_ids: list[int], tokens: int) -> list[int]:
        """The most likely next tokens, one after another; fewer where the text ends."""
        return self._complete(token_ids, n_predict=tokens)["tokens"]

    def next_log_probabilities(self, token_ids: list[int], tokens: int) -> dict[int, float]:
        """Log-probabilities of the most likely next tokens, by id: as many as asked for, at most the vocabulary."""
        # Probabilities are those of the bare logits. The bias makes the server draw a token that is text: an end, or
        # half a character, comes without probabilities.
        answer = self._complete(token_ids, n_predict=1, n_probs=tokens, logit_bias=[[token_ids[-1], 1e3]])
        return {entry["id"]: entry["logprob"] for entry in answer["completion_probabilities"][0]["top_logprobs"]}

    def _complete(self, token_ids: list[int], **settings: Any) -> dict[str, Any]:
        asked = {"prompt": token_ids, "temperature": 0.0, "return_tokens": True, "cache_prompt": True}
        return self._ask("/completion", asked | settings)

    def _ask(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self._server.listening_address + path,
            data=json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
        with opener.open(request, timeout=600) as answer:
            return json.loads(answer.read())


@contextlib.contextmanager
def running(file: Path, context_tokens: int, threads: int = 1) -> Iterator[Running]:
    """Load a file on the CPU for as long as the context lasts.

    Raises:
        RuntimeError: llama.cpp cannot load it; its own log says why.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_batch, settings.n_ubatch = context_tokens, context_tokens, min(512, context_tokens)
    settings.n_parallel, settings.warmup, settings.verbosity, settings.use_jinja = 1, False, -1, True
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32  # fp16 would round by 0.1 %
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(settings)
    try:
        yield Running(server)
    finally:
        del server
