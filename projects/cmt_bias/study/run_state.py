"""How far a run of a study is, in a file that a kill leaves whole."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..atomic_file import write_atomically

STATE_FILE = 'state.json'
DETECTIONS = Path('detections') / 'pred_instances_3d' / 'results_nusc.json'


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        key: Of the settings it was made with.
        checkpoint: Weights after training; empty while it is not done.
        metrics: The metric dict of tools/test.py; empty while it is not done.
        seconds: Wall-clock time of each stage that ended, all its tries included that were not
            killed together with the runner.
        device: Where it ran.
        failure: Why it ended early; empty otherwise.
    """

    key: str
    checkpoint: str = ''
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    device: str = ''
    failure: str = ''

    def with_time(self, stage: str, seconds: float) -> 'RunState':
        """This state with more time spent on a stage."""
        spent = {**self.seconds, stage: self.seconds.get(stage, 0.0) + seconds}
        return replace(self, seconds=spent)


def read_state(folder: Path) -> RunState | None:
    """The state in a run's folder; None where there is none, or a damaged one."""
    try:
        content: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
        return RunState(**content)
    except (OSError, ValueError, TypeError):
        return None


def write_state(folder: Path, state: RunState) -> None:
    """Write the state to a run's folder."""
    write_atomically(folder / STATE_FILE, json.dumps(asdict(state), indent=2).encode())


def put_aside(folder: Path) -> Path:
    """Rename a folder so that its name is free; nothing of a user's results is removed."""
    number = 1
    while (kept := folder.with_name(f'{folder.name}.outdated_{number}')).exists():
        number += 1
    return folder.rename(kept)
