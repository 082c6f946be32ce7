"scrapy crawl, which here also tells by its exit code whether all went well."

import argparse

from leash import end_with_parent
from scrapy.commands import crawl


class Command(crawl.Command):
    "`scrapy crawl SPIDER`: exit code 1 if the spider reported an error. `-s LEASH=1`: end when standard input closes."

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        if self.settings.getbool("LEASH"):
            end_with_parent()
        super().run(args, opts)
        if self.crawler.spider is None or self.crawler.spider.errors:
            self.exitcode = 1

    def _create_crawler(self, spidercls):
        self.crawler = super()._create_crawler(spidercls)
        return self.crawler
