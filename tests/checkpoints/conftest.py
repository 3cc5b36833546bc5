"""A process that trains tiny models, for tests that resume and kill."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


class TrainingServer:
    """Starts trainings in processes of their own; see training_server.py for the options."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._finished: dict[str, Path] = {}
        environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
        environment['PYTHONPATH'] = str(HERE.parents[1] / 'projects')
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / 'training_server.py')],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._server.stdout.readline() == 'ready\n'

    def _ask(self, line: str) -> int:
        self._server.stdin.write(f'{line}\n')
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def start(self, work_dir: Path, **options: object) -> int:
        """Start a training; returns the number of its (first) process."""
        return self._ask(json.dumps({'work_dir': str(work_dir), **options}))

    def wait(self) -> int:
        """Wait for the training that was started; returns its exit status."""
        return self._ask('wait')

    def train(self, work_dir: Path, **options: object) -> None:
        """Train to the end."""
        self.start(work_dir, **options)
        status = self.wait()
        assert status == 0, (work_dir / 'output.log').read_text()[-3000:]

    def train_until_killed(self, work_dir: Path, at_iteration: int, **options: object) -> None:
        """Train, and die by SIGKILL after an iteration."""
        self.start(work_dir, die_at_iteration=at_iteration, **options)
        assert self.wait() == -signal.SIGKILL, (work_dir / 'output.log').read_text()[-3000:]

    def uninterrupted(self, **options: object) -> Path:
        """Folder of a finished training with these options, made once for all tests."""
        key = json.dumps(options, sort_keys=True)
        if key not in self._finished:
            work_dir = self._root / f'uninterrupted_{len(self._finished)}'
            self.train(work_dir, **options)
            self._finished[key] = work_dir
        return self._finished[key]

    def close(self) -> None:
        """End the server."""
        self._server.stdin.close()
        self._server.wait(timeout=60)


def read_losses(work_dir: Path) -> dict[tuple[str, int], set[str]]:
    """All losses recorded for each process and iteration, of all attempts at a training."""
    losses: dict[tuple[str, int], set[str]] = {}
    for file in work_dir.glob('losses_*.txt'):
        for line in file.read_text().splitlines():
            iteration, loss = line.split()
            losses.setdefault((file.stem, int(iteration)), set()).add(loss)
    return losses


@pytest.fixture(scope='session')
def assert_same_training() -> Callable[[Path, Path], None]:
    """Compares the losses of every iteration, and the final weights, bit for bit."""

    def compare(work_dir: Path, reference: Path) -> None:
        expected = read_losses(reference)
        assert expected and all(len(losses) == 1 for losses in expected.values())
        assert read_losses(work_dir) == expected
        weights = torch.load(work_dir / 'final_weights.pth')
        for key, value in torch.load(reference / 'final_weights.pth').items():
            assert torch.equal(weights[key], value), key

    return compare


@pytest.fixture(scope='session')
def training_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingServer]:
    server = TrainingServer(tmp_path_factory.mktemp('trainings'))
    yield server
    server.close()
