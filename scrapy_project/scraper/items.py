"What spiders yield: one page of a history, rows as the site wrote them."

from dataclasses import dataclass, field


@dataclass
class HistoryPage:
    "Raw rows of one ticker; the pipeline turns them into bars."

    ticker: str
    rows: list[dict] = field(repr=False)  # keys of stockml.schema.BAR_COLUMNS; text, numbers or None
    last: bool = True  # no further page of this history follows
