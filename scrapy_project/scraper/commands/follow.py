"scrapy follow: one process and one reactor for many crawls. To start Scrapy takes seconds, and a year has 252 sessions."

import argparse
import asyncio
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress

from scrapy.commands import BaseRunSpiderCommand
from scrapy.exceptions import UsageError

from scraper.pipelines import report


class Command(BaseRunSpiderCommand):
    """`scrapy follow SPIDER`: reads a date a line, crawls up to it, answers with the report in one line of JSON.

    It ends after the last date once standard input closes; with `-s LEASH=1` at once, whatever it is doing.
    """

    requires_project = True

    def syntax(self) -> str:
        return "[options] <spider>"

    def short_desc(self) -> str:
        return "Run a spider again and again, up to each date that standard input names"

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        if len(args) != 1:
            raise UsageError("name one spider")
        loop, asked = asyncio.get_event_loop(), asyncio.Queue()
        tell = lambda line: loop.call_soon_threadsafe(asked.put_nowait, line)  # noqa: E731
        threading.Thread(target=listen, args=(tell, self.settings.getbool("LEASH")), daemon=True).start()
        following = loop.create_task(self._follow(args[0], opts.spargs, asked))
        self.crawler_process.start(stop_after_crawl=False)
        if following.done() and not following.cancelled():
            following.result()  # what went wrong here, if anything did

    async def _follow(self, spider: str, arguments: dict[str, str], asked: asyncio.Queue) -> None:
        from twisted.internet import reactor  # not before Scrapy has chosen it

        try:
            while (line := await asked.get()) is not None:
                print(json.dumps(await self._crawl(spider, {**arguments, "as_of": line})), flush=True)
        finally:
            with suppress(RuntimeError):  # a signal was faster
                reactor.stop()

    async def _crawl(self, spider: str, arguments: dict[str, str]) -> dict:
        crawler = self.crawler_process.create_crawler(spider)
        try:
            await self.crawler_process.crawl(crawler, **arguments)
        except Exception as e:  # one crawl that cannot start is no reason to end
            return report(errors=[f"{spider}: {type(e).__name__}: {e}"])
        return crawler.spider.report or report(errors=[f"{spider}: it ended without a report; its log says why"])


def listen(tell: Callable[[str | None], None], leash: bool) -> None:
    "Pass on the lines of standard input, and None at its end. A file of its own: see leash.py."
    with os.fdopen(0, closefd=False) as lines:
        for line in filter(None, map(str.strip, lines)):
            tell(line)
    if leash:
        os._exit(1)  # at once: everything that is written here is written atomically
    tell(None)
