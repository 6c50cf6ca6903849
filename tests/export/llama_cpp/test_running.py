import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from slimsweep.export.llama_cpp.running import Running


@pytest.fixture
def asked():
    """Requests to a server that answers as llama.cpp's does, and the model behind it."""
    seen = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, content))
            likely = [{"id": 3, "logprob": -0.5}, {"id": 1, "logprob": -1.5}]
            answer = {"tokens": [3, 1], "completion_probabilities": [{"top_logprobs": likely}], "prompt": "<user>hi"}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *given):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield seen, Running(SimpleNamespace(listening_address=f"http://127.0.0.1:{server.server_port}"))
    server.shutdown()


def test_greedy_text_has_no_temperature(asked):
    seen, model = asked
    assert model.greedy([5, 6], 2) == [3, 1]
    assert seen == [
        (
            "/completion",
            {"prompt": [5, 6], "temperature": 0.0, "return_tokens": True, "cache_prompt": True, "n_predict": 2},
        )
    ]


def test_likely_tokens_are_read_by_id_and_never_through_a_proxy(asked, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    seen, model = asked
    assert model.next_log_probabilities([5], 2) == {3: -0.5, 1: -1.5}
    assert model.token_ids("hi") == [3, 1] and seen[-1][1]["add_special"]
    assert model.applied_template([{"role": "user", "content": "hi"}]) == "<user>hi"
