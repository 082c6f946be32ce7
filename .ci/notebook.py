"""How git handles notebooks here: .gitconfig and the hooks call this, once `make hooks` has told git. Only a merge needs the environment.

text FILE                          a notebook as lines, for diffs: no ids, no counters, no metadata but tags, pictures as their hash
merge BASE OURS THEIRS SIZE PATH   merge cell by cell with nbdime; outputs that differ are ours
run PROGRAM ARGUMENT...            a program of this checkout's environment, or of the main checkout's in a linked worktree
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

# jsonschema would first build a grammar of addresses, for a second: notebooks hold none.
NBMERGE = "import sys; sys.modules['rfc3987_syntax'] = None; from nbdime.nbmergeapp import main; sys.exit(main())"


def text(path):
    "Cells as lines; a file that is no notebook as it is."
    raw = Path(path).read_bytes()
    try:
        cells = json.loads(raw)["cells"]
        lines = [line for cell in cells for line in shown(cell)]
    except (ValueError, KeyError, TypeError):
        sys.stdout.buffer.write(raw)
        return 0
    sys.stdout.buffer.write(("\n".join(lines) + "\n").encode())
    return 0


def shown(cell):
    "One cell: its kind and tags, its source, its outputs."
    tags = cell.get("metadata", {}).get("tags", [])
    yield f"── {cell['cell_type']}{' ' if tags else ''}{', '.join(tags)}"
    yield joined(cell["source"])
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        for kind in data:
            if kind.startswith("image/"):
                yield f"→ {kind} {hashlib.sha256(joined(data[kind]).encode()).hexdigest()[:12]}"
        said = output.get("text") or data.get("text/plain") or output.get("evalue") or ""
        yield "\n".join(f"→ {line}" for line in joined(said).splitlines())


def joined(value):
    "Text, which notebooks keep as a list of lines or as one."
    return value if isinstance(value, str) else "".join(value)


def merge(base, ours, theirs, size, path):
    "Merge into OURS; 1 if a conflict is left. What nbdime cannot read, git merges as text: nothing is lost."
    merged = Path(f"{ours}.merged")
    nbmerge = program("nbmerge")
    try:
        if nbmerge:
            command = [Path(nbmerge).with_name("python"), "-c", NBMERGE, "--output-strategy", "use-local", "--out", merged]
            done = subprocess.run([*command, base, ours, theirs], capture_output=True, check=False)
        if merged.exists():
            shutil.copyfile(merged, ours)
            if done.returncode:
                print(f"{path}: both sides changed the same cells; both versions stand there, between lines of < and >: "
                      f"keep one, e.g. in JupyterLab (make lab), then: git add {path}", flush=True)
            return done.returncode
    finally:
        merged.unlink(missing_ok=True)
    print(f"{path}: merged as text, since {'nbdime cannot read it' if nbmerge else 'there is no nbdime here (make setup)'}", flush=True)
    labels = [part for name in ("ours", "base", "theirs") for part in ("-L", name)]
    return min(subprocess.run(["git", "merge-file", "--marker-size", size, *labels, ours, base, theirs], check=False).returncode, 127)


def run(name, *arguments):
    "Become a program of the environment."
    found = program(name)
    if not found:
        print(f"no {name} here: make setup", file=sys.stderr)
        return 127
    os.execv(found, [found, *arguments])  # noqa: S606


def program(name):
    "Where a program of the environment is; None without."
    git = subprocess.run(["git", "rev-parse", "--git-common-dir"], capture_output=True, text=True, check=False)
    folders = [Path(".venv/bin"), Path(git.stdout.strip()).parent / ".venv/bin", *map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    return next((str((folder / name).absolute()) for folder in folders if os.access(folder / name, os.X_OK)), None)


if __name__ == "__main__":
    sys.exit({"text": text, "merge": merge, "run": run}[sys.argv[1]](*sys.argv[2:]))
