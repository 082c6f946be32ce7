"How the service runs: `gunicorn -c serve/gunicorn.conf.py 'serve.app:create_app()'`, from the root of the project."

import os
import sys

# Requests are served side by side by workers and threads: maths libraries that start threads of their own would only
# get in the way, and threads started before the fork would be missing after it. Read when NumPy and XGBoost load.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import ThreadWorker

from stockml.config import StockmlError


class Worker(ThreadWorker):
    "A worker that says in one line why it cannot start; the server then ends rather than try again for ever."

    def load_wsgi(self):
        try:
            super().load_wsgi()
        except StockmlError as e:
            self.log.error("%s", e)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


def on_starting(server) -> None:
    "Refuse a bad bundle before a port is opened. Nothing of it is kept: each worker loads its own after the fork."
    from serve.app import load_bundle, model_folder

    try:
        load_bundle(model_folder())
    except StockmlError as e:
        print(e, file=sys.stderr)
        sys.exit(e.exit_code)


bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = Worker
threads = 4  # a slow client holds a thread, not a worker
preload_app = False
timeout = 30  # seconds without a sign of life
graceful_timeout = 20  # seconds for requests under way when told to end; below Kubernetes' 30
keepalive = 5
control_socket_disable = True  # one way to steer it: signals
