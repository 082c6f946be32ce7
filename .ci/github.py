"""What the workflows tell people on GitHub, each once and then kept up to date: a comment on a pull request, an issue for alarms, a pull
request with a new dvc.lock. Only Python's own library, so that a job with a right to write installs nothing.

    github.py comment FOLDER   comment.md there, on pull request PR
    github.py alarms FOLDER    alarms.md there, and RESULT of the job that should have written it
    github.py propose FOLDER   params.yaml and dvc.lock there, as a pull request against GITHUB_REF_NAME
"""

import json
import os
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

REPOSITORY = os.environ.get("GITHUB_REPOSITORY", "")
RUN = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{REPOSITORY}/actions/runs/{os.environ.get('GITHUB_RUN_ID', '')}"
LONGEST = 65_000  # characters; GitHub takes 65,536


def call(method: str, path: str, **body: object) -> object:
    "One request to GitHub's API."
    headers = {"Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}", "Accept": "application/vnd.github+json",
               "Content-Type": "application/json", "X-GitHub-Api-Version": "2022-11-28"}
    address, data = f"{os.environ['GITHUB_API_URL']}/repos/{REPOSITORY}/{path}", json.dumps(body).encode() if body else None
    request = Request(address, data, headers, method=method)  # noqa: S310 (GitHub's, or what GITHUB_API_URL names)
    try:
        with urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
    except HTTPError as e:
        with e:
            sys.exit(f"github: {method} {path}: {e.code} {e.read().decode(errors='replace')[:300]}")
    except OSError as e:
        sys.exit(f"github: {method} {path}: {e}")


def ours(path: str, mark: str) -> dict | None:
    "The first entry of a list that a workflow of ours has written; people may quote the mark."
    for page in range(1, 21):
        entries = call("GET", f"{path}{'&' if '?' in path else '?'}per_page=100&page={page}")
        for entry in entries:
            if mark in (entry["body"] or "") and entry["user"]["type"] == "Bot":
                return entry
        if len(entries) < 100:
            return None
    return None


def comment(folder: Path) -> None:
    "One comment on a pull request, replaced by each push."
    number, text = int(os.environ["PR"]), (folder / "comment.md").read_text()
    mark, text = text.splitlines()[0], f"{text[:LONGEST]}\n\nPlots side by side and all figures: artifact `compare` of [this run]({RUN}).\n"
    if known := ours(f"issues/{number}/comments", mark):
        call("PATCH", f"issues/comments/{known['id']}", body=text)
    else:
        call("POST", f"issues/{number}/comments", body=text)


def alarms(folder: Path) -> None:
    "One open issue while something is wrong, closed when all is well; a run that was cancelled says nothing of either."
    path, mark = folder / "alarms.md", "<!-- stockml alarms -->"
    text = path.read_text() if path.exists() else ""
    result = os.environ.get("RESULT", "success")
    if result == "failure":
        text = f"- **The run did not succeed** ({result}): its log says where.\n{text}"
    elif result != "success":
        print(f"The run was {result}.")
        return
    known = ours("issues?state=open", mark)
    if not text:
        print("No alarm.")
        if known:
            call("PATCH", f"issues/{known['number']}", state="closed")
        return
    body = f"{mark}\n{text[:LONGEST]}\nFrom [this run]({RUN}), which also keeps the reports.\n"
    if known:
        call("PATCH", f"issues/{known['number']}", body=body)
    else:
        call("POST", "issues", title="Alarm in the training", body=body, labels=["alarm"])


def propose(folder: Path) -> None:
    "A pull request with the parameters and the dvc.lock of this run, if they are new."
    base, branch = os.environ["GITHUB_SHA"], f"train-{os.environ['GITHUB_RUN_ID']}"
    before = call("GET", f"git/commits/{base}")["tree"]["sha"]
    files = [{"path": name, "mode": "100644", "type": "blob", "content": (folder / name).read_text()}
             for name in ("params.yaml", "dvc.lock")]
    tree = call("POST", "git/trees", base_tree=before, tree=files)["sha"]
    if tree == before:
        print("Nothing new to propose.")
        return
    commit = call("POST", "git/commits", message=f"Trained by {RUN}", tree=tree, parents=[base])["sha"]
    call("POST", "git/refs", ref=f"refs/heads/{branch}", sha=commit)
    call("POST", "pulls", title="A new training", head=branch, base=os.environ["GITHUB_REF_NAME"],
         body=f"Parameters and `dvc.lock` of [this run]({RUN}); what they name is at the DVC remote, if one is set up.\n")


if __name__ == "__main__":
    what = {"comment": comment, "alarms": alarms, "propose": propose}.get(sys.argv[1] if len(sys.argv) == 3 else "")
    if what is None:
        sys.exit(__doc__)
    what(Path(sys.argv[2]))
