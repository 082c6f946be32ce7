"Polite by default; the command line may only change where things go and how patient we are."

BOT_NAME = "stockml"
SPIDER_MODULES = ["scraper.spiders"]
NEWSPIDER_MODULE = "scraper.spiders"

# Say who we are, obey robots.txt, ask one thing at a time and slow down when the site does.
USER_AGENT = "stockml (research; reads daily prices, obeys robots.txt)"
ROBOTSTXT_OBEY = True
CONCURRENT_REQUESTS_PER_DOMAIN = 1
DOWNLOAD_DELAY = 1
AUTOTHROTTLE_ENABLED = True
AUTOTHROTTLE_START_DELAY = 1
AUTOTHROTTLE_MAX_DELAY = 60
COOKIES_ENABLED = False
TELNETCONSOLE_ENABLED = False

RETRY_TIMES = 4
DOWNLOAD_TIMEOUT = 30
DOWNLOADER_MIDDLEWARES = {
    "scrapy.downloadermiddlewares.retry.RetryMiddleware": None,
    "scraper.middlewares.PatientRetryMiddleware": 550,
}
ITEM_PIPELINES = {"scraper.pipelines.StorePipeline": 300}

# Where things go.
STORE = "data/bars.parquet"
QUARANTINE = "data/quarantine.jsonl"
REPORT = ""  # a JSON file with what happened; empty: none

LOG_LEVEL = "INFO"
FEED_EXPORT_ENCODING = "utf-8"
