"""Ask the service at an address without a pause until /tmp/stop exists, then print how that went. Runs in a pod of the image.

Two clients: one opens a connection for each request, one keeps its own as long as the server likes.
"""

import json
import math
import sys
import threading
import time
from datetime import date, timedelta
from http.client import HTTPConnection
from pathlib import Path

days = [date(2001, 1, 1) + timedelta(i) for i in range(600)]
bars = [{"date": str(day), "close": 100 + 5 * math.sin(i) + i % 7} for i, day in enumerate(d for d in days if d.weekday() < 5)]
body = json.dumps({"ticker": "LOAD", "bars": bars})
lost, slowest, counts = [], [0.0], {"fresh": 0, "kept": 0}


def client(kind: str) -> None:
    connection = HTTPConnection(sys.argv[1], timeout=20)
    while not Path("/tmp/stop").exists():  # noqa: S108
        begin = time.monotonic()
        try:
            connection.request("POST", "/v1/forecast", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if "forecasts" not in json.loads(answer.read()):
                lost.append(f"{kind}: status {answer.status}")
        except Exception as e:
            lost.append(f"{kind}: {e!r}")
            connection.close()
        counts[kind] += 1
        slowest[0] = max(slowest[0], time.monotonic() - begin)
        if kind == "fresh":
            connection.close()
        time.sleep(.01)


threads = [threading.Thread(target=client, args=(kind,)) for kind in counts]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"asked": sum(counts.values()), **counts, "lost": lost, "slowest_s": round(slowest[0], 3)}))
