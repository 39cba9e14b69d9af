# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v serve`: run the converter that agents send their disks to."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from p2v.cli.output import print_json, print_pairs
from p2v.model.command import Subparsers, file_path
from p2v.service.addresses import parse_listen
from p2v.service.notify import notify, watchdog_interval

if TYPE_CHECKING:
    from p2v.service.converter import Converter

log = logging.getLogger(__name__)

DEFAULT_DATA = Path("/var/lib/p2v")
DATA_HELP = f"the converter's folder (default: {DEFAULT_DATA})"
DEFAULT_LISTEN = "0.0.0.0:8443"
LEVELS = ("debug", "info", "warning", "error")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def register(subparsers: Subparsers) -> None:
    """Add `serve`."""
    parser = subparsers.add_parser(
        "serve",
        description="Run the converter that agents send their disks to, until SIGTERM or Ctrl-C.",
        epilog="Exit code 0: stopped; 42: the folder is in use; 43: cannot listen; 44: database.",
    )
    parser.add_argument(
        "--data", metavar="DIR", type=file_path, default=DEFAULT_DATA, help=DATA_HELP
    )
    parser.add_argument(
        "--listen", metavar="ADDR:PORT", default=DEFAULT_LISTEN, help="default: %(default)s"
    )
    parser.add_argument(
        "--database",
        metavar="URL",
        default="",
        help="postgresql://... to share the work; default: files in the data folder",
    )
    parser.add_argument(
        "--no-announce",
        action="store_true",
        help="do not tell the local network (mDNS); wizards there offer what they hear of",
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="default: info")
    parser.add_argument("--json", action="store_true", help="print one JSON document at start")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    host, port = parse_listen(args.listen)
    logging.basicConfig(level=args.log_level.upper(), format=_FORMAT, stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # Imported here: DBOS takes a second that a wrong command line need not wait for.
    from p2v.service.converter import Converter, Settings

    converter = Converter(Settings(args.data, host, port, args.database, not args.no_announce))
    _introduce(converter, args)
    notify("READY=1")
    _watch(converter, stop)
    notify("STOPPING=1")
    log.info("stopping")
    converter.close()
    logging.shutdown()
    sys.stdout.flush()
    # A verification that is under way is not waited for: it is taken up again at the next start,
    # as after a crash. Python would join its thread.
    os._exit(0)


def _introduce(converter: Converter, args: argparse.Namespace) -> None:
    facts = {
        "address": converter.address,
        "port": converter.port,
        "fingerprint": converter.fingerprint,
        "data": str(args.data),
    }
    if args.json:
        print_json(facts)
    else:
        print("The converter is ready; admit an agent with 'p2v pair'.")
        print_pairs((name, str(value)) for name, value in facts.items() if name != "port")
    sys.stdout.flush()


def _watch(converter: Converter, stop: threading.Event) -> None:
    """Wait for `stop`; meanwhile tell systemd's watchdog that all is well, while it is."""
    interval = watchdog_interval()
    while not stop.wait(interval):
        if converter.healthy:
            notify("WATCHDOG=1")
