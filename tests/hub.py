"As much of GitHub's REST API as the workflows use, on a port of this machine; what it holds is there to be looked at."

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

REPOSITORY, TOKEN = "ada/stockml", "a-token"


class Hub:
    "Its memory: issues (pull requests among them), their comments, git's objects."

    def __init__(self):
        self.address = ""
        self.issues: list[dict] = []
        self.comments: list[dict] = []
        self.pulls: list[dict] = []
        self.git: dict[str, dict] = {}
        self.calls: list[tuple[str, str]] = []

    def env(self, **more: str) -> dict[str, str]:
        "What a job of GitHub finds in its environment."
        return {"GITHUB_API_URL": self.address, "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_TOKEN": TOKEN, "GITHUB_RUN_ID": "17",
                "GITHUB_SERVER_URL": "https://github.com", "GITHUB_SHA": "0" * 40, "GITHUB_REF_NAME": "main", **more}

    def add(self, to: list[dict], body: str | None, kind: str = "Bot", **more: object) -> dict:
        "An entry as GitHub would answer it."
        to.append({"id": 100 + len(to), "number": 1 + len(to), "state": "open", "body": body, "user": {"type": kind}, **more})
        return to[-1]

    def answer(self, method: str, path: str, query: dict, body: dict) -> tuple[int, object]:
        "One request."
        self.calls.append((method, path))
        if found := re.fullmatch(r"issues/(\d+)/comments", path):
            if method == "POST":
                return 201, self.add(self.comments, body["body"], issue=int(found[1]))
            return 200, page([c for c in self.comments if c["issue"] == int(found[1])], query)
        if found := re.fullmatch(r"issues/(comments/)?(\d+)", path):
            entries, key = (self.comments, "id") if found[1] else (self.issues, "number")
            for entry in entries:
                if entry[key] == int(found[2]):
                    return 200, entry.update(body) or entry
        if path == "issues":
            if method == "POST":
                return 201, self.add(self.issues, body.pop("body"), **body)
            return 200, page([i for i in self.issues if i["state"] == query["state"][0]], query)
        if path == "pulls":
            return 201, self.add(self.pulls, body.pop("body"), **body)
        if method == "POST" and path.startswith("git/"):
            key = sha1(json.dumps(body, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
            self.git[f"{path}/{key}"] = body
            return 201, {"sha": key}
        if path.startswith("git/commits/"):
            return 200, {"tree": {"sha": "1" * 40}}
        return 404, {"message": "Not Found"}


def page(entries: list[dict], query: dict) -> list[dict]:
    "A part of a long list."
    size, number = (int(query[k][0]) for k in ("per_page", "page"))
    return entries[size * (number - 1):size * number]


@contextmanager
def hub() -> Iterator[Hub]:
    "A GitHub of one's own."
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            address, length = urlsplit(self.path), int(self.headers["Content-Length"] or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            prefix = f"/repos/{REPOSITORY}/"
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                code, answer = 401, {"message": "Bad credentials"}
            elif not address.path.startswith(prefix):
                code, answer = 404, {"message": "Not Found"}
            else:
                code, answer = state.answer(self.command, address.path.removeprefix(prefix), parse_qs(address.query), body)
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PATCH = do_GET

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
