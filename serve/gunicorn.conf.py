"""How the service runs: `gunicorn -c serve/gunicorn.conf.py 'serve.app:create_app()'`, from the root of the project.

The environment sets it up:

HOST, PORT, WEB_CONCURRENCY  where it listens (127.0.0.1, 8000), and how many workers answer (2)
STOCKML_MODEL                folder of the served bundle (models/champion of the project); watched, a new one takes over by itself
STOCKML_API_KEYS_FILE        who may ask, a line NAME:SHA256 each (`python -m serve.access NAME` makes one); watched too
STOCKML_RATE_LIMIT           requests a minute of each key, in each worker (no limit)
STOCKML_JOURNAL              folder in which every forecast is kept before it is told, a line each (none)
STOCKML_OPEN                 1: others than this machine may ask without a key
STOCKML_REQUEST_SECONDS      that a request may take to arrive (15)
STOCKML_DRAIN_SECONDS        to go on after SIGTERM while /readyz says 503, for those who ask it only now and then (0)
STOCKML_LOG_LEVEL            debug: /healthz, /readyz and /metrics leave lines too
"""

import ctypes
import gc
import os
import re
import shutil
import sys
import tempfile

PORT = os.environ.get("PORT", "8000")
if not (re.fullmatch(r"[0-9]{1,5}", PORT) and int(PORT) < 65536):
    print(f"PORT: {PORT!r} is no port", file=sys.stderr)
    sys.exit(2)

# Requests are served side by side by workers and threads: maths libraries that start threads of their own would only
# get in the way, and threads started before the fork would be missing after it. Read when NumPy and XGBoost load.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The workers count in files of their own here; read when prometheus_client loads. Made anew: counts begin with the server, and
# go on when SIGHUP has this file read again.
if os.environ.get("STOCKML_COUNTS_OF") != str(os.getpid()):
    try:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="stockml-")
    except OSError as e:
        sys.exit(f"no place for temporary files ({e.strerror}): set TMPDIR")
    os.environ["STOCKML_COUNTS_OF"] = str(os.getpid())
COUNTS = os.environ["PROMETHEUS_MULTIPROC_DIR"]

# Threads share what they free: with an arena each, a few long requests leave a worker twice as large as it needs to be.
if hasattr(libc := ctypes.CDLL(None), "mallopt"):
    libc.mallopt(-8, 1)  # M_ARENA_MAX
    # A batch's arrays are a megabyte each: to get each from the system, page by page, and give it back took a sixth of its time.
    libc.mallopt(-1, 64 * 2**20)  # M_TRIM_THRESHOLD
    libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD

from prometheus_client.multiprocess import mark_process_dead  # noqa: E402

from stockml.config import StockmlError  # noqa: E402


def on_starting(server) -> None:
    "Refuse a bad bundle, or a door left open, before a port is opened. Of the bundle nothing is kept: each worker loads its own."
    from serve.access import Access, check_door
    from serve.model import load_bundle, model_folder
    from serve.observe import open_journal
    from serve.worker import drain_seconds, request_seconds

    try:
        drain_seconds(), request_seconds()
        check_door(server.cfg.address, Access.from_environment())
        load_bundle(model_folder())
        open_journal()
    except StockmlError as e:
        print(e, file=sys.stderr)
        shutil.rmtree(COUNTS, ignore_errors=True)
        sys.exit(e.exit_code)
    import serve.app  # noqa: F401 (once here instead of once in each worker: they have it from the fork)

    gc.collect()
    gc.freeze()  # what is here now stays: no worker looks through it again


def post_worker_init(worker) -> None:
    "The model stays too; and what a request leaves behind is hardly ever a circle, so it is looked for less often."
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def child_exit(server, worker) -> None:
    "A worker that is gone has no requests under way."
    mark_process_dead(worker.pid, COUNTS)


def on_exit(server) -> None:
    "Leave nothing behind."
    shutil.rmtree(COUNTS, ignore_errors=True)


bind = f"{os.environ.get('HOST', '127.0.0.1')}:{PORT}"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))  # gunicorn has looked at it already
worker_class = "serve.worker.Worker"
threads = 2  # each has a whole request: one may take long, more would not compute faster
worker_connections = 1000
preload_app = False
timeout = 30  # seconds without a sign of life
graceful_timeout = 20  # seconds for requests under way when told to end; below Kubernetes' 30
keepalive = 5
control_socket_disable = True  # one way to steer it: signals
