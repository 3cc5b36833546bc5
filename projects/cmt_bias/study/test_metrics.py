"""The metrics that tools/test.py leaves in its work directory."""

import json
from pathlib import Path


def read_test_metrics(test_dir: Path) -> dict[str, float]:
    """The metric dict of the newest test in a work directory.

    Args:
        test_dir: Its ``--work-dir``; mmengine writes ``<time>/<time>.json`` there.

    Returns:
        The metrics; empty if there are none.
    """
    files = [path for path in test_dir.glob('*/*.json') if path.stem == path.parent.name]
    for path in sorted(files, reverse=True):  # their names are times
        try:
            metrics = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(metrics, dict) and any(key.endswith('/NDS') for key in metrics):
            return metrics
    return {}
