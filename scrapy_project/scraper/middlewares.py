"Retries that wait as long as the site asks."

import asyncio
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from scrapy.downloadermiddlewares.retry import RetryMiddleware

MAX_WAIT_S = 300


def wait_seconds(value: bytes | None) -> float:
    "Seconds from a Retry-After header: a number or an HTTP date; 0 if there is none or it is unreadable."
    text = (value or b"").decode("latin-1").strip()
    try:
        seconds = float(text) if text.isdigit() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), MAX_WAIT_S)


class PatientRetryMiddleware(RetryMiddleware):
    "Scrapy's retry middleware, which ignores Retry-After, plus the waiting."

    async def process_response(self, request, response, spider=None):
        if response.status in self.retry_http_codes and (seconds := wait_seconds(response.headers.get("Retry-After"))):
            self.crawler.spider.logger.info("%s asks to wait %.0f s", response.url, seconds)
            self.crawler.stats.inc_value("retry/waited_s", seconds)
            self.crawler.engine.pause()  # the site asked for quiet: no other request either
            await asyncio.sleep(seconds)
            self.crawler.engine.unpause()
        return super().process_response(request, response)
