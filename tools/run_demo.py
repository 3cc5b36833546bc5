"""The demo: synthetic data, conversion, training, official metric and pictures, in one command.

`make demo` calls this after the set-up. Each step runs one of the tools of this folder, shows its
progress as it comes, and keeps all that it prints in a log file. A step that has been done with
the same command on the same inputs is not done again; an interrupted training goes on from its
last checkpoint.
"""

from __future__ import annotations

import argparse
import codecs
import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path('data/synthetic')
WORK_DIR = Path('work_dirs/demo')
LAST_CHECKPOINT = '<last checkpoint>'
LINES_OF_A_FAILURE = 20

# What of a tool's output is shown; the rest, such as printed configs, is in the log alone.
PROGRESS_BARS = r'[\w ]+: +\d+%.*|\[[> ]+\] .*|drawing .*|.*\d+ samples, .*|.* pictures in .*'
TRAINING_LINES = (
    r'Epoch\(train\).*?(?=  d0\.|$)|Saving checkpoint.*|effective batch.*|'
    r'base learning rate.*|(?<=INFO - )[Rr]esume.*'
)
SCORE_LINES = r'^  \w+(?: +(?:\d+\.\d+|-|[A-Z]{2,3})){6}|^mAP \d.*|\[[> ]+\] .*'


@dataclass(frozen=True)
class DemoModel:
    """A recipe that the demo trains, tests and pictures.

    Attributes:
        name: names its folder under the demo's work directory.
        config: its config file.
        starts_from: name of the model from whose last checkpoint the training starts; '' for none.
    """

    name: str
    config: str
    starts_from: str = ''


MODELS = (
    DemoModel('cmt_tiny', 'configs/cmt/cmt-tiny_pillar0500_r18_256x96_1xb2-cyclic-22e_nus-3d.py'),
    DemoModel(
        'cmt_bias_tiny',
        'configs/cmt_bias/cmt-bias-finetune-tiny_pillar0500_r18_256x96_1xb2-cosine-4e_nus-3d.py',
        starts_from='cmt_tiny',
    ),
)
SCALE_HISTORY = 'bias_scale.csv'
SCALE_CURVE = 'bias_scale_curve.png'


@dataclass(frozen=True)
class Step:
    """One command of the demo.

    Attributes:
        name: names the step's log file and its entry in the state file.
        purpose: what it does, for the reader.
        command: tool and options; :data:`LAST_CHECKPOINT` stands for the checkpoint that the
            training in ``train_dir`` has written last.
        output: file or folder that the step makes.
        needs: names of the steps whose outputs it reads: when one of them is redone, so is this.
        sources: files and folders whose content decides what the step gives.
        config: a config file whose settings, inherited ones included, decide what it gives.
        train_dir: work directory of the training that :data:`LAST_CHECKPOINT` in the command
            belongs to.
        shown: regular expression; of each line of output that it is found in, the part that it
            matches is shown.
    """

    name: str
    purpose: str
    command: tuple[str, ...]
    output: Path
    needs: tuple[str, ...] = ()
    sources: tuple[Path, ...] = ()
    config: str = ''
    train_dir: Path | None = None
    shown: str = '.*'


def data_steps() -> list[Step]:
    """The steps that all models share."""
    settings = DATA / 'synthetic_nuscenes.json'  # the generator notes them here, with its version
    return [
        Step(
            name='data',
            purpose='write the synthetic dataset in the nuScenes schema',
            command=('tools/create_synthetic_nuscenes.py', '--out', str(DATA)),
            output=DATA,
        ),
        Step(
            name='conversion',
            purpose="make info files and the pasting database with mmdet3d's converter",
            command=(
                *('tools/create_data.py', 'nuscenes', '--root-path', str(DATA)),
                *('--out-dir', str(DATA), '--extra-tag', 'nuscenes'),
            ),
            output=DATA / 'nuscenes_infos_val.pkl',
            needs=('data',),
            sources=(settings,),
            shown=PROGRESS_BARS,
        ),
    ]


def model_steps(model: DemoModel) -> list[Step]:
    """Training, test and pictures of one model."""
    folder = WORK_DIR / model.name
    train_dir, test_dir, pictures = folder / 'train', folder / 'test', folder / 'pictures'
    train, test = f'{model.name}_training', f'{model.name}_test'
    start: tuple[str, ...] = ()
    needs: tuple[str, ...] = ('conversion',)
    start_dir = None
    if model.starts_from:
        start = ('--cfg-options', f'load_from={LAST_CHECKPOINT}')
        needs = (*needs, f'{model.starts_from}_training')
        start_dir = WORK_DIR / model.starts_from / 'train'
    return [
        Step(
            name=train,
            purpose=f'train {model.config}'
            + (f', from what {model.starts_from} has learned' if model.starts_from else ''),
            command=(
                *('tools/train.py', model.config, '--work-dir', str(train_dir), '--resume'),
                *start,
            ),
            output=train_dir,
            needs=needs,
            config=model.config,
            train_dir=start_dir,
            shown=TRAINING_LINES,
        ),
        Step(
            name=test,
            purpose='score the validation scenes with the official nuScenes evaluation',
            command=(
                *('tools/test.py', model.config, LAST_CHECKPOINT),
                *('--work-dir', str(test_dir)),
            ),
            output=test_dir,
            needs=(train,),
            config=model.config,
            train_dir=train_dir,
            shown=SCORE_LINES,
        ),
        Step(
            name=f'{model.name}_pictures',
            purpose="draw cameras and bird's-eye view with annotations and detections",
            command=(
                *('tools/visualize.py', model.config, LAST_CHECKPOINT),
                *('--out-dir', str(pictures), '--max-samples', '6', '--image-source', 'file'),
            ),
            output=pictures,
            needs=(train,),
            config=model.config,
            sources=(Path('projects/cmt_bias/visualization'),),
            train_dir=train_dir,
            shown=PROGRESS_BARS,
        ),
    ]


class StepFailedError(Exception):
    """A step's command ended with an error, or did not make what it should."""


class DemoState:
    """Which steps are done, with which inputs; kept in a JSON file from one run to the next.

    Args:
        path: the state file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self.steps = json.loads(path.read_text())

    def is_done(self, step: Step, key: str) -> bool:
        """Whether the step was finished with the same inputs and its output is still there."""
        entry = self.steps.get(step.name, {})
        return entry.get('key') == key and entry.get('done', False) and step.output.exists()

    def is_begun(self, step: Step, key: str) -> bool:
        """Whether the step was begun with the same inputs and cut off."""
        entry = self.steps.get(step.name, {})
        return entry.get('key') == key and not entry.get('done', False)

    def seconds(self, step: Step) -> float:
        """How long the step has taken, over all its runs with the same inputs."""
        return float(self.steps.get(step.name, {}).get('seconds', 0.0))

    def record(self, step: Step, key: str, done: bool, seconds: float) -> None:
        """Write down how far a step is; a crash leaves the former state file whole."""
        self.steps[step.name] = {'key': key, 'done': done, 'seconds': seconds}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f'.{self.path.name}.{os.getpid()}.partial')
        partial.write_text(json.dumps(self.steps, indent=2))
        os.replace(partial, self.path)


def step_key(step: Step, keys: dict[str, str]) -> str:
    """A digest of all that decides what a step gives.

    Args:
        step: the step.
        keys: keys of the steps before it.

    Returns:
        A hexadecimal digest of its command, its settings, its sources and the steps it needs.
    """
    digest = hashlib.sha256()
    parts: list[str] = [*step.command, *(keys[name] for name in step.needs)]
    if step.config:
        parts.append(_settings(step.config))
    for part in parts:
        digest.update(part.encode() + b'\0')
    for source in step.sources:
        for file in sorted(source.rglob('*.py')) if source.is_dir() else [source]:
            content = file.read_bytes() if file.is_file() else b'absent'
            digest.update(str(file).encode() + b'\0' + content + b'\0')
    return digest.hexdigest()


def _settings(config_file: str) -> str:
    """All settings of a config, inherited ones included, in one order."""
    from mmengine.config import Config

    config = Config.fromfile(config_file, import_custom_modules=False)
    return json.dumps(config.to_dict(), sort_keys=True, default=str)


def last_checkpoint(train_dir: Path) -> str:
    """The checkpoint a training has written last, as mmengine notes it.

    Raises:
        StepFailedError: if there is none.
    """
    note = train_dir / 'last_checkpoint'
    if not note.is_file():
        raise StepFailedError(f'{train_dir} holds no checkpoint: {note} is missing')
    return note.read_text().strip()


def run_steps(steps: Sequence[Step], state: DemoState, console: Console) -> list[float | None]:
    """Run what is not done yet.

    Args:
        steps: in an order in which each comes after those it needs.
        state: what earlier runs have done.
        console: where to announce the steps.

    Returns:
        For each step the seconds this run spent on it, None where it was done before.

    Raises:
        StepFailedError: if a command fails; the message names the step and its log.
    """
    keys: dict[str, str] = {}
    spent: list[float | None] = []
    for number, step in enumerate(steps, start=1):
        keys[step.name] = key = step_key(step, keys)
        heading = f'step {number} of {len(steps)}: {step.purpose}'
        if state.is_done(step, key):
            console.print(f'{heading}\n  done before, kept: {step.output}', style='green')
            spent.append(None)
            continue
        console.rule(heading, align='left')
        _remove_outdated_output(step, key, state, console)
        spent.append(_run_step(step, key, state, console))
    return spent


def _remove_outdated_output(step: Step, key: str, state: DemoState, console: Console) -> None:
    """Make room: what other inputs gave must not be mixed with, or resumed as, the new output.

    Outside the demo's own folder nothing is removed: the tools for data go on with what is theirs
    and refuse what is not.
    """
    in_demo_folder = state.path.parent in step.output.parents
    if state.is_begun(step, key) or not in_demo_folder or not step.output.exists():
        return
    console.print(f'  {step.output} was made with other inputs: removed, to be made again')
    if step.output.is_dir():
        shutil.rmtree(step.output)
    else:
        step.output.unlink()


def _run_step(step: Step, key: str, state: DemoState, console: Console) -> float:
    """Run one step's command, show and log what it prints, and note that it is done."""
    before = state.seconds(step) if state.is_begun(step, key) else 0.0
    state.record(step, key, done=False, seconds=before)
    log_file = state.path.parent / 'logs' / f'{step.name}.log'
    command = [sys.executable, *step.command]
    if step.train_dir is not None:
        checkpoint = last_checkpoint(step.train_dir)
        command = [word.replace(LAST_CHECKPOINT, checkpoint) for word in command]
    console.print(f'  command: {shlex.join(["python", *command[1:]])}', soft_wrap=True)
    console.print(f'  result:  {step.output}\n  log:     {log_file}', soft_wrap=True)
    start = time.monotonic()
    try:
        status = run_logged(command, log_file, step.shown)
    finally:
        seconds = time.monotonic() - start
        state.record(step, key, done=False, seconds=before + seconds)
    if status != 0:
        last_lines = log_file.read_text(errors='replace').splitlines()[-LINES_OF_A_FAILURE:]
        console.print(*last_lines, sep='\n', markup=False, soft_wrap=True)
        raise StepFailedError(
            f'{step.name}: the command ended with status {status}; log: {log_file}'
        )
    if not step.output.exists():
        raise StepFailedError(f'{step.name}: {step.output} was not made; log: {log_file}')
    state.record(step, key, done=True, seconds=before + seconds)
    console.print(f'  finished in {seconds:.0f} s', style='green')
    return seconds


def run_logged(command: Sequence[str], log_file: Path, shown: str = '.*') -> int:
    """Run a command, showing its progress as it comes and adding its output to a log file.

    Args:
        command: program and arguments; run in the current folder.
        log_file: its folder is made if need be.
        shown: regular expression of what is shown of a line; all of it by default. A progress
            bar that is drawn again over itself counts as a new line each time.

    Returns:
        The exit status.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, 'PYTHONUNBUFFERED': '1'}
    decoder = codecs.getincrementaldecoder('utf-8')(errors='replace')
    pending = ''
    with log_file.open('ab') as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        assert process.stdout is not None
        try:
            while chunk := os.read(process.stdout.fileno(), 65536):
                log.write(chunk)
                log.flush()
                pending = _show_whole_lines(pending + decoder.decode(chunk), shown)
            _show_whole_lines(pending + '\n' if pending else '', shown)
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def _show_whole_lines(text: str, shown: str) -> str:
    """Show what is to be shown of the lines in a text; returns the unfinished last line."""
    *lines, unfinished = re.split(r'(?<=[\r\n])', text)
    for line in lines:
        content, end = line[:-1], line[-1]
        found = re.search(shown, content)
        if found and (found.group() or shown == '.*'):
            sys.stdout.write(found.group() + end)
    sys.stdout.flush()
    return unfinished


def read_metrics(test_dir: Path) -> dict[str, float]:
    """Scores of the newest test in a work directory.

    Returns:
        ``{'mAP': ..., 'NDS': ...}``; without the entries that no metrics file gives.
    """
    files = sorted(test_dir.glob('*/*.json'), key=lambda file: file.stat().st_mtime)
    for file in reversed(files):
        try:
            metrics = json.loads(file.read_text())
        except json.JSONDecodeError:
            continue
        found = {
            name: float(value)
            for name in ('mAP', 'NDS')
            for key, value in (metrics.items() if isinstance(metrics, dict) else ())
            if key.endswith(f'/{name}')
        }
        if found:
            return found
    return {}


def print_summary(
    steps: Sequence[Step], spent: Sequence[float | None], state: DemoState, console: Console
) -> None:
    """Two short tables: steps with their times and results, models with their scores."""
    table = Table(title='demo')
    for column, justify in (('step', 'left'), ('seconds', 'right'), ('result', 'left')):
        table.add_column(column, justify=justify, overflow='fold')  # type: ignore[arg-type]
    for step, seconds in zip(steps, spent, strict=True):
        note = f'{state.seconds(step):.0f}' + (' (kept)' if seconds is None else '')
        table.add_row(step.name, note, str(step.output))
    table.add_section()
    total = sum(state.seconds(step) for step in steps)
    now = sum(seconds or 0.0 for seconds in spent)
    table.add_row('all steps', f'{total:.0f}', f'{now:.0f} s of them in this run')
    console.print(table)
    scores = Table(title='official nuScenes metric on the synthetic validation scenes')
    for column in ('model', 'mAP', 'NDS', 'bias scale', 'pictures'):
        scores.add_column(column, overflow='fold')
    for model in MODELS:
        folder = WORK_DIR / model.name
        metrics = read_metrics(folder / 'test')
        numbers = [f'{metrics[n]:.3f}' if n in metrics else 'not found' for n in ('mAP', 'NDS')]
        scale = read_scale_path(folder / 'train' / SCALE_HISTORY)
        pictures = str(folder / 'pictures')
        if scale:
            pictures += f'\n{folder / "train" / SCALE_CURVE}'
        scores.add_row(model.name, *numbers, scale, pictures)
    console.print(scores)


def read_scale_path(history: Path) -> str:
    """First and last value of a learned bias scale, ``'2.50 -> 2.71'``; '' without a history."""
    if not history.is_file():
        return ''
    with history.open(newline='') as file:
        values = [row['bias_scale/shared'] for row in csv.DictReader(file)]
    return f'{float(values[0]):.2f} -> {float(values[-1]):.2f}' if values else ''


def main() -> None:
    """Run the demo from the repository's root, wherever it was called from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    os.chdir(REPOSITORY)
    # Being told to stop ends the running step too, and is said like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Captured output has no terminal width: wide enough that paths are not cut.
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    state = DemoState(WORK_DIR / 'state.json')
    steps = data_steps() + [step for model in MODELS for step in model_steps(model)]
    console.print(f'{len(steps)} steps; results and logs in {WORK_DIR}')
    try:
        spent = run_steps(steps, state, console)
    except StepFailedError as error:
        console.print(f'the demo stopped: {error}', style='red', soft_wrap=True)
        console.print('what is done is kept: mend the cause and run `make demo` again to go on')
        sys.exit(1)
    except KeyboardInterrupt:
        console.print('\ninterrupted; run `make demo` again to go on from here')
        sys.exit(130)
    print_summary(steps, spent, state, console)


if __name__ == '__main__':
    main()
