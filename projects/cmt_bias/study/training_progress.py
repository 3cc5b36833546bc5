"""How far a training is, from the last lines of its log."""

import re

EPOCH_LINE = re.compile(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\]')
ITERATION_LINE = re.compile(r'Iter\(train\)\s+\[\s*(\d+)/(\d+)\]')


def fraction_trained(log: str, max_epochs: int | None) -> float:
    """The share of a training that is done.

    Args:
        log: End of mmengine's log.
        max_epochs: Epochs of the training; None for one that counts iterations.

    Returns:
        0-1; 0 where the log does not tell.
    """
    if max_epochs:
        lines = EPOCH_LINE.findall(log)
        if not lines:
            return 0.0
        epoch, iteration, length = map(int, lines[-1])
        return min((epoch - 1 + iteration / length) / max_epochs, 1.0)
    lines = ITERATION_LINE.findall(log)
    return min(int(lines[-1][0]) / int(lines[-1][1]), 1.0) if lines else 0.0


def duration_text(seconds: float) -> str:
    """A duration such as '2 h 05 min', '3 min' or '40 s'."""
    if seconds < 60:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes // 60} h {minutes % 60:02d} min' if minutes >= 60 else f'{minutes} min'
