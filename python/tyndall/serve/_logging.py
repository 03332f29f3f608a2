"""The logger of serving: it writes to stderr from INFO on, one line in Ray Serve's form per record."""

from __future__ import annotations

import logging

LOGGER = "tyndall.serve"


def configure() -> None:
    """Gives the logger its handler, once; what the program has set up of it stays."""
    logger = logging.getLogger(LOGGER)
    if logger.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(asctime)s serve %(process)d -- %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


configure()
