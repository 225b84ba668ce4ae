"""Logging: one structured line an event, for people on a terminal and as JSON elsewhere."""

import logging
import sys
from typing import Any

import structlog

from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.settings import Settings


def _without_known_tracebacks(record: logging.LogRecord) -> bool:
    """A library's warning about a database that is away says so in one line, like our own.

    A traceback in the log is a bug; that PostgreSQL restarts is none.
    """
    error = record.exc_info[1] if record.exc_info else None
    if record.levelno <= logging.WARNING and isinstance(error, DATABASE_ERRORS):
        record.msg = f"{record.getMessage()}: {error}"
        record.args, record.exc_info, record.exc_text = None, None, None
    return True


def set_up_logging(settings: Settings) -> None:
    level = getattr(logging, settings.log_level.upper())
    on_terminal = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    renderer: Any = (
        structlog.dev.ConsoleRenderer(
            exception_formatter=structlog.dev.plain_traceback, colors=sys.stderr.isatty()
        )
        if on_terminal
        else structlog.processors.JSONRenderer()
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    formatting: list[Any] = [] if on_terminal else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *formatting, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard library; their warnings belong in the same stream.
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *formatting,
                renderer,
            ],
        )
    )
    handler.addFilter(_without_known_tracebacks)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
