"""Serve the bundled price site on loopback, from the folder scrapy_project:

    python -m exchange [--port 8500] [--as-of 2000-09-28] [--fault slow=0.2] [--fault busy=2]

Prints its URL on one line once it listens. `--port 0` picks a free port. Faults are described in exchange/faults.py.
"""

import argparse
import logging
import sys
from datetime import date
from pathlib import Path

from leash import end_with_parent
from werkzeug.serving import make_server

from .faults import Faults
from .market import SNAPSHOT
from .site import create_app


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m exchange", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8500, help="0: any free port")
    parser.add_argument("--as-of", type=date.fromisoformat, help="the clock; default: the snapshot's last session")
    parser.add_argument("--snapshot", type=Path, default=SNAPSHOT, help="a Parquet file of bars")
    parser.add_argument("--fault", action="append", default=[], metavar="KIND=VALUE", help="misbehave; may be repeated")
    parser.add_argument("--leash", action="store_true", help="end when standard input closes")
    args = parser.parse_args()
    try:
        faults = Faults.parse(args.fault)
    except ValueError as e:
        parser.error(str(e))
    if args.leash:
        end_with_parent()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", args.port, create_app(args.snapshot, args.as_of, faults), threaded=True)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
