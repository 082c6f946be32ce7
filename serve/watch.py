"Looks at the files that may change while the service runs, once a second, beside the requests and not among them."

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


def every_second(*looks: Callable[[], None]) -> threading.Thread:
    "Call each of them once a second for as long as the process lives; what one of them does not foresee ends none."

    def run() -> None:
        while True:
            time.sleep(1)
            for look in looks:
                try:
                    look()
                except Exception:
                    log.exception("looking for changes failed")

    thread = threading.Thread(target=run, name="watch", daemon=True)
    thread.start()
    return thread
