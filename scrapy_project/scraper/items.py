"What spiders yield: one page of a history, rows as the site wrote them."

from dataclasses import dataclass, field


@dataclass
class HistoryPage:
    "Raw rows of one ticker, in the order of the pages; `StorePipeline` turns them into bars."

    ticker: str
    rows: list[dict] = field(repr=False)  # keys among stockml.schema.BAR_COLUMNS; text, numbers or None
    first: bool = True  # a history begins here: what came before of this ticker is void
    last: bool = True  # no further page follows
    replace: bool = False  # a restated history: it takes the place of what the store has
