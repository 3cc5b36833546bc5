"""The torch-only parts of the package log with Python's logging; a run shows it in its own log."""

import logging

from mmengine.logging import MMLogger

PACKAGE_LOGGER = 'cmt_bias'


class _ToCurrentLog(logging.Handler):
    """Passes messages on to the log of the run that is going on."""

    def emit(self, record: logging.LogRecord) -> None:
        MMLogger.get_current_instance().log(record.levelno, record.getMessage())


def show_package_log() -> None:
    """Pass the package's messages on to mmengine's current logger; once is enough."""
    logger = logging.getLogger(PACKAGE_LOGGER)
    if not any(isinstance(handler, _ToCurrentLog) for handler in logger.handlers):
        logger.addHandler(_ToCurrentLog())
        logger.setLevel(logging.INFO)
