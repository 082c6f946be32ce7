"""Serve the bundled price site on loopback:

    python -m exchange [--port 8500] [--as-of 2000-09-28] [--fault slow=0.2] [--fault busy=2]

Prints its URL on one line once it listens. `--port 0` picks a free port.
"""

import argparse
import logging
import sys
from datetime import date

from werkzeug.serving import make_server

from .faults import Faults
from .site import create_app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m exchange", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8500, help="0: any free port")
    parser.add_argument("--as-of", type=date.fromisoformat, help="the clock; default: the snapshot's last session")
    parser.add_argument("--fault", action="append", default=[], metavar="KIND=VALUE", help="misbehave; see faults.py")
    args = parser.parse_args()
    try:
        faults = Faults.parse(args.fault)
    except ValueError as e:
        parser.error(str(e))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", args.port, create_app(as_of=args.as_of, faults=faults), threaded=True)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
