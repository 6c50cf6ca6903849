"""HTTP recorder that answers as much of MLflow's REST API as publishing needs. It is not a real server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from local_server import serving


class Recorder:
    """Runs that a server was sent, by the ids that this recorder gave them."""

    def __init__(self) -> None:
        self.address = ""
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        """Files of runs by their path."""
        self.headers: list[str] = []
        """Authorization of each request."""
        self.experiment: str | None = None

    def answer(self, path: str, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body for one method of the API."""
        if path == "experiments/get-by-name":
            body = {"experiment_id": "1", "name": self.experiment, "lifecycle_stage": "active"}
            missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
            return (200, {"experiment": body}) if self.experiment else (404, missing)
        if path == "experiments/create":
            self.experiment = given["name"]
            return 200, {"experiment_id": "1"}
        if path == "runs/create":
            run = f"run{len(self.runs)}"
            info = {"run_id": run, "run_uuid": run, "experiment_id": "1", "run_name": given.get("run_name")}
            info |= {"status": "RUNNING", "lifecycle_stage": "active", "artifact_uri": f"mlflow-artifacts:/{run}"}
            self.runs[run] = {"info": info, "data": {"tags": given["tags"], "params": [], "metrics": []}}
            return 200, {"run": self.runs[run]}
        if path == "runs/search":
            wanted = given["filter"].rpartition("= ")[2].strip("'")
            return 200, {
                "runs": [run for run in self.active() if wanted in [tag["value"] for tag in run["data"]["tags"]]]
            }
        run = self.runs[given.get("run_id") or given["run_uuid"]]
        if path == "runs/log-batch":
            for kind in ("metrics", "params"):
                run["data"][kind] += given.get(kind, [])
        if path == "runs/update":
            run["info"]["status"] = given["status"]
        if path == "runs/delete":
            run["info"]["lifecycle_stage"] = "deleted"
        return 200, {"run": run, "run_info": run["info"]} if path in ("runs/get", "runs/update") else {}

    def active(self) -> list[dict[str, Any]]:
        """Runs that were not deleted."""
        return [run for run in self.runs.values() if run["info"]["lifecycle_stage"] == "active"]


def _tag_values(run: dict[str, Any]) -> list[str]:
    return [tag["value"] for tag in run["data"]["tags"]]


@contextmanager
def recording() -> Iterator[Recorder]:
    """Run a recorder on a free port of this machine."""
    recorder = Recorder()
    with serving(_handler(recorder)) as recorder.address:
        yield recorder


def _handler(recorder: Recorder) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            recorder.headers.append(self.headers.get("Authorization") or "")
            body, place = self.rfile.read(int(self.headers.get("Content-Length") or 0)), urlsplit(self.path)
            if "mlflow-artifacts/artifacts/" in place.path:
                recorder.files[place.path.rpartition("artifacts/")[2]] = body
                self._send(200, {})
                return
            query = {name: values[0] for name, values in parse_qs(place.query).items()}
            self._send(*recorder.answer(place.path.partition("/mlflow/")[2], json.loads(body) if body else query))

        do_GET = do_PUT = do_PATCH = do_POST

        def _send(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
