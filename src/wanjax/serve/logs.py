"""What a server logs: one line an event, for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

from wanjax.errors import printable
from wanjax.files import without_home

LOG = logging.getLogger("wanjax.serve")
_KNOWN = set(vars(logging.makeLogRecord({})))


def log_to_stderr(form: Literal["text", "json"]) -> None:
    """From now on; uvicorn's own warnings, too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    for name, level in (("wanjax.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _KNOWN}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {"time": round(record.created, 3), "level": record.levelname.lower()}
        event |= {"event": record.getMessage(), **_facts(record)}
        if record.exc_info:
            event["trace"] = self.formatException(record.exc_info)
        return without_home(json.dumps(event, ensure_ascii=True, default=str))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts = " ".join(f"{name}={value}" for name, value in _facts(record).items())
        line = printable(f"{clock} {record.getMessage()} {facts}".rstrip())
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return without_home(line + trace)
