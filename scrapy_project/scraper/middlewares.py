"Retries that wait as long as the site asks, and longer each time if it does not say."

import asyncio
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from scrapy.downloadermiddlewares.retry import RetryMiddleware

MAX_WAIT_S = 300  # a site that asks for more is left alone: trying sooner would not honour what it says


def wait_seconds(value: bytes | None) -> float | None:
    "Seconds from a Retry-After header: a number or an HTTP date; None if there is none or it is unreadable."
    text = (value or b"").decode("latin-1").strip()
    try:
        if text.isdigit():
            return float(text)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


class PatientRetryMiddleware(RetryMiddleware):
    "Scrapy's retry middleware, which ignores Retry-After and retries at once, plus the waiting."

    async def process_response(self, request, response, spider=None):
        if response.status not in self.retry_http_codes:
            return response
        asked = wait_seconds(response.headers.get("Retry-After"))
        if asked is not None and asked > MAX_WAIT_S:
            return response
        seconds = asked if asked is not None else self._backoff(request)
        if (again := super().process_response(request, response)) is not response:
            where = response.url.split("?")[0]
            self.crawler.spider.logger.info("%s answered %d: waiting %.3g s", where, response.status, seconds)
            self.crawler.engine.pause()  # the site needs quiet: no other request either
            await asyncio.sleep(seconds)
            self.crawler.engine.unpause()
        return again

    def _backoff(self, request) -> float:
        "One, two, four ... times the usual delay."
        return self.crawler.settings.getfloat("DOWNLOAD_DELAY") * 2 ** request.meta.get("retry_times", 0)
