"LaTeX as pictures in the page itself: no script, no font, no other host, in light and dark."

import html
import re
import xml.etree.ElementTree as ET
from functools import cache

import ziamath

MARKED = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
SIZE = 24  # of a drawing, in its own units; a page scales it by the size of its text

ziamath.config.svg2 = False  # paths, not symbols with ids that would meet those of the next formula
ziamath.config.precision = 2


def draw(content: str) -> str:
    "HTML with the formulas drawn that pymdownx.arithmatex has marked. `ValueError` names one that is not LaTeX."
    return MARKED.sub(lambda m: drawn(html.unescape(m[2]).strip(), m[1] == "div"), content)


@cache
def drawn(latex: str, block: bool) -> str:
    "One formula; its source is what screen readers get."
    try:
        svg = ziamath.Latex(latex, size=SIZE, inline=not block).svgxml()
    except Exception as e:
        raise ValueError(f"not LaTeX that can be drawn: {latex} ({e})") from None
    _, top, width, height = (float(x) / SIZE for x in svg.get("viewBox").split())
    paths = "".join(ET.tostring(part, encoding="unicode") for part in svg).replace('"black"', '"currentColor"').replace(" \n", "")
    shown = (f'<svg class="formula" role="img" aria-label="{html.escape(latex)}" viewBox="{svg.get("viewBox")}" '
             f'style="width:{width:.3f}em;height:{height:.3f}em;vertical-align:{-top - height:.3f}em">{paths}</svg>')
    return f'<div class="formula">{shown}</div>' if block else shown
