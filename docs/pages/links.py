"Links between files of the repository become links between pages; names in code spans become links too."

import os
import re
from pathlib import Path

FENCE = r"^(?P<fence>[ ]*(?:`{3,}|~{3,})).*?^(?P=fence)[ ]*$"
SPAN = r"(?P<ticks>`+)(?P<code>[^`]|[^`].*?[^`])(?P=ticks)(?!`)"
LINK = r"(?P<image>!?)\[(?P<text>(?:`[^`]*`|[^\[\]`])*)\]\((?P<to>[^()\s]+)\)"
PARTS = re.compile(f"{FENCE}|{LINK}|{SPAN}", re.MULTILINE | re.DOTALL)


class Links:
    "What there is to link to: files of the repository and names of the package, each with its page's address."

    def __init__(self, root: Path, files: dict[str, str], names: dict[str, str]):
        self.root, self.files, self.names = root, files, names

    def resolve(self, markdown: str, source: str, uri: str) -> str:
        "A page made from the repository's file `source`, as it stands at `uri`. `ValueError` names a link that leads nowhere."
        return "".join(self._line(part, source, uri) for part in self._split(markdown))

    def _split(self, markdown: str) -> list[re.Match | str]:
        out, end = [], 0
        for found in PARTS.finditer(markdown):
            out += [markdown[end:found.start()], found]
            end = found.end()
        return [*out, markdown[end:]]

    def _line(self, part: re.Match | str, source: str, uri: str) -> str:
        if isinstance(part, str) or part["fence"]:
            return part if isinstance(part, str) else part[0]
        if part["code"]:
            begins = part.string.rfind("\n", 0, part.start()) + 1
            return part[0] if part.string.startswith("#", begins) else self._span(part[0], part["code"], source, uri)
        return self._link(part, source, uri)

    def _span(self, text: str, code: str, source: str, uri: str) -> str:
        "A code span that names a page's file or a public name."
        to = self.files.get(code.rstrip("/")) or self.names.get(code) or self.names.get(f"{_module(uri)}.{code}") or self._command(code)
        return text if to in (None, uri) else f"[{text}]({_seen(to, uri)})"

    def _command(self, code: str) -> str | None:
        "A command line of ours."
        words = code.split()
        return next((self.names[name] for n in (3, 2) if words[:1] == ["stockml"] and (name := " ".join(words[:n])) in self.names), None)

    def _link(self, part: re.Match, source: str, uri: str) -> str:
        "A link or picture; to a file that is not on the site: its text alone."
        to, _, anchor = part["to"].partition("#")
        if re.match(r"[a-z]+:", to) or not to or not source:
            return part[0]
        path = os.path.normpath(Path(source).parent / to)
        if path in self.files:
            return f"{part['image']}[{part['text']}]({_seen(self.files[path], uri)}{'#' + anchor if anchor else ''})"
        if not (self.root / path).exists():
            raise ValueError(f"{source}: a link leads nowhere: {part['to']}")
        return part["text"]


def _module(uri: str) -> str:
    "Whose names need no prefix on this page."
    return Path(uri).stem if uri.startswith("api/") else ""


def _seen(to: str, uri: str) -> str:
    "An address of the site as seen from a page."
    page, _, anchor = to.partition("#")
    return (os.path.relpath(page, Path(uri).parent) if page != uri else "") + ("#" + anchor if anchor else "")
