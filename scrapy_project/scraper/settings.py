"Polite by default; `-s NAME=VALUE` says where things go and how patient we are."

BOT_NAME = "stockml"
SPIDER_MODULES = ["scraper.spiders"]
NEWSPIDER_MODULE = "scraper.spiders"
COMMANDS_MODULE = "scraper.commands"

# Say who we are, obey robots.txt, ask one thing at a time and slow down when the site does.
# On loopback LOOPBACK_DELAY is all: the site is our own, and more would be politeness to oneself.
USER_AGENT = "stockml/0.1 (research; reads daily prices, obeys robots.txt)"
ROBOTSTXT_OBEY = True
CONCURRENT_REQUESTS = 1
CONCURRENT_ITEMS = 1  # of a page, which has one; Scrapy starts as many tasks a page
DOWNLOAD_DELAY = 1
LOOPBACK_DELAY = 0.001
AUTOTHROTTLE_ENABLED = True
AUTOTHROTTLE_START_DELAY = 1
AUTOTHROTTLE_MAX_DELAY = 60
COOKIES_ENABLED = False
TELNETCONSOLE_ENABLED = False
REMOTE_CONTROL_ENABLED = False

RETRY_TIMES = 4
RETRY_PRIORITY_ADJUST = 0  # a retried page keeps its turn
DOWNLOAD_TIMEOUT = 30
DOWNLOAD_MAXSIZE = 32 * 1024 * 1024
DOWNLOADER_MIDDLEWARES = {
    "scrapy.downloadermiddlewares.retry.RetryMiddleware": None,
    "scraper.middlewares.PatientRetryMiddleware": 550,
}
ITEM_PIPELINES = {"scraper.pipelines.StorePipeline": 300}

# Where things go.
STORE = "data/bars.parquet"
QUARANTINE = "data/quarantine.jsonl"
HOLD_S = 1  # seconds that a history which has come may wait for others, to share one write of the store
REPORT = ""  # a JSON file with what happened; empty: none

LOG_LEVEL = "INFO"
FEED_EXPORT_ENCODING = "utf-8"
