"""HTTP recorder that answers as much of W&B's protocol as publishing and dashboards need. It is not the real service.

GraphQL requests, file streams and uploads are kept as they came. Answers hold what the client must read, no more.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from local_server import serving

from slimsweep.records.tracking.wandb import stop_service

KEY = "planted0secret0key0" + "a" * 21
"""API key of tests: 40 characters that must show up nowhere but in the header of requests."""
ENTITY = "someone"


class Recorder:
    """What a server has seen: GraphQL operations, lines of file streams, uploaded files, runs and views."""

    def __init__(self) -> None:
        self.operations: list[tuple[str, dict[str, Any]]] = []
        """Name and variables of each GraphQL request, in order."""
        self.streams: dict[str, list[dict[str, Any]]] = {}
        """Bodies of the file stream of each run."""
        self.uploads: dict[str, bytes] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        """Runs by their id, as last upserted."""
        self.views: dict[str, dict[str, Any]] = {}
        """Workspaces and reports by the id that this recorder gave them."""
        self.projects: list[str] = []
        self.refusal: tuple[int, str] | None = None
        """Status and body of every answer instead, once it is set."""
        self.address = ""

    def named(self, operation: str) -> list[dict[str, Any]]:
        """Variables of every request of one operation."""
        return [variables for name, variables in self.operations if name == operation]

    def history(self, run: str) -> list[dict[str, Any]]:
        """Rows that a run logged."""
        return [json.loads(line) for line in self._lines(run, "wandb-history.jsonl")]

    def summary(self, run: str) -> dict[str, Any]:
        """The last summary that a run streamed."""
        return json.loads(self._lines(run, "wandb-summary.json")[-1])

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Views of one type: `project-view` for workspaces, `runs` for reports."""
        return [view for view in self.views.values() if view["type"] == kind]

    def _lines(self, run: str, file: str) -> list[str]:
        return [line for body in self.streams[run] for line in body.get("files", {}).get(file, {}).get("content", [])]

    def answer(self, operation: str, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """Data of a GraphQL answer."""
        self.operations.append((operation, given))
        if "upsertBucket" in query:
            return self._upserted_run(given)
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.address}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        if "notifyScriptableRunAlert" in query:
            return {"notifyScriptableRunAlert": {"success": True}}
        if "upsertView" in query:
            return self._upserted_view(given)
        if "upsertModel" in query:
            self.projects.append(given["input"]["name"])
            return {"upsertModel": {"project": None, "model": None, "inserted": True}}
        if "artifactType" in query or "createArtifact" in query:
            return self._artifact(query)
        if "viewer" in query:
            teams = {"edges": [{"node": {"name": ENTITY}}]}
            viewer = {"id": "u", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "", "admin": False}
            return {"viewer": viewer | {"flags": "{}", "teams": teams, "apiKeys": None, "deletedAt": None}}
        if "allViews" in query:
            is_known = (given.get("project") or given["name"]) in self.projects
            return {"project": {"allViews": self._listed(given)} if is_known else None}
        if "view(id" in query:
            return {"view": self._whole(self.views[given["reportId"]])}
        if "projects(" in query or "models(" in query:
            edges = [{"cursor": "", "node": self._project(name)} for name in self.projects]
            page = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
            return {"projects": page, "models": page}
        return {}

    def _upserted_run(self, given: dict[str, Any]) -> dict[str, Any]:
        run, is_new = given["name"], given["name"] not in self.runs
        self.runs[run] = self.runs.get(run, {}) | {name: value for name, value in given.items() if value is not None}
        if given["project"] not in self.projects:
            self.projects.append(given["project"])
        project = self._project(given["project"])
        bucket = {"id": run, "name": run, "displayName": given["displayName"], "config": given["config"]}
        bucket |= {"description": "", "sweepName": None, "project": project, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _artifact(self, query: str) -> dict[str, Any]:
        """Answer that a table's artifact is there already, so that the client uploads no parts of it."""
        if "createArtifact" not in query:
            return {"project": None}
        artifact = {"id": "artifact", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "artifact"}}}
        return {"createArtifact": {"artifact": artifact}}

    def _upserted_view(self, given: dict[str, Any]) -> dict[str, Any]:
        known = given.get("id")
        view = given | {"id": known or base64.b64encode(f"View:{1000 + len(self.views)}".encode()).decode()}
        self.views[view["id"]] = view
        return {"upsertView": {"view": self._whole(view), "inserted": not known}}

    def _listed(self, given: dict[str, Any]) -> dict[str, Any]:
        wanted = {name: given.get(variable) for name, variable in (("type", "viewType"), ("name", "viewName"))}
        found = [
            view
            for view in self.views.values()
            if all(value is None or view[name] == value for name, value in wanted.items())
        ]
        edges = [{"cursor": "", "node": self._whole(view)} for view in found]
        return {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}

    def _whole(self, view: dict[str, Any]) -> dict[str, Any]:
        dates = dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00")
        project = self._project(view["projectName"])
        return {"user": None, **{name: view[name] for name in ("id", "type", "name", "displayName")}} | dates | {
            "description": view.get("description"), "spec": view["spec"], "project": project,
        }  # fmt: skip

    @staticmethod
    def _project(name: str) -> dict[str, Any]:
        fields = {"id": name, "internalId": name, "name": name, "entityName": ENTITY, "isBenchmark": False}
        return fields | {"createdAt": "2026-01-01T00:00:00", "entity": {"id": ENTITY, "name": ENTITY}, "user": None}


@contextmanager
def planted(patch: Any, folder: Path) -> Iterator[Recorder]:
    """A recorder on a free port of this machine, with its address and a planted key in the environment.

    Args:
        patch: pytest's monkeypatch.
        folder: home and working directory, without settings of W&B.
    """
    for name in ("MODE", "PROJECT", "ENTITY", "DIR", "CONFIG_DIR", "TAGS", "NOTES"):
        patch.delenv(f"WANDB_{name}", raising=False)
    patch.setenv("HOME", str(folder))
    patch.chdir(folder)
    recorder = Recorder()
    with serving(_handler(recorder)) as recorder.address:
        patch.setenv("WANDB_BASE_URL", recorder.address)
        patch.setenv("WANDB_API_KEY", KEY)
        stop_service()  # wandb read the environment when its service started
        yield recorder
        stop_service()


def _handler(recorder: Recorder) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if recorder.refusal:
                self._send(*recorder.refusal)
                return
            parts = self.path.strip("/").split("/")
            if parts[-1] == "file_stream":
                recorder.streams.setdefault(parts[-2], []).append(json.loads(body))
                self._send(200, "{}")
            elif parts[0] == "upload":
                recorder.uploads["/".join(parts[1:])] = body
                self._send(200, "{}")
            else:
                asked = json.loads(body)
                name = asked.get("operationName") or asked["query"].split("(")[0].split("{")[0].split()[-1]
                data = recorder.answer(name, asked["query"], asked.get("variables") or {})
                self._send(200, json.dumps({"data": data}))

        do_PUT = do_GET = do_POST

        def _send(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

    return Handler
