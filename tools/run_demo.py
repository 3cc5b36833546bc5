"""Commands in a row, with their progress, logs and a closing table: `make demo` and `make base`.

    python tools/run_demo.py         # the shipped base, fine-tuned with the learned scale
    python tools/run_demo.py base    # the long way: how the shipped base was made

Each step is one of the tools of this folder, and can be given by hand as it is shown. All of them
go on where they were interrupted; folders of trainings carry a digest of their settings, so that
what other settings have left is not gone on with.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from cmt_bias.checkpoints.shipped_weights import shipped_digest

REPOSITORY = Path(__file__).resolve().parent.parent
BASE = 'configs/cmt/cmt-tiny_pillar0500_r18_256x96_2xb2-cyclic-13e_nus-3d.py'
FINETUNED = (
    'configs/cmt_bias/cmt-bias-finetune-tiny_pillar0500_r18_256x96_1xb2-cosine-2e_nus-3d.py'
)
PRETRAINING = 'configs/pretraining/dense-tiny_pillar0500_r18_256x96_2xb2-cosine-18e_nus-3d.py'
BASE_TRAININGS = dict(pretraining=PRETRAINING, training=BASE)  # each starts from the one before
SHIPPED = 'cmt_tiny'
VAL_INFOS = 'nuscenes_infos_val.pkl'
# the small set on which a test checks what the base scores
SMALL = ('--train-scenes', '1', '--val-scenes', '2', '--samples-per-scene', '3')
SENSORS = dict(clean='both sensors', camera_drop_all='without cameras', lidar_drop='without LiDAR')
LINES_OF_A_FAILURE = 20
# What of a tool's output is shown; the rest, such as printed configs, is in the log alone.
SHOWN = (
    r'Epoch\(train\).*?(?=  d0\.|  task0\.|$)|Saving checkpoint.*|(?<=INFO - )[Rr]esume.*|'
    r'^  \w+(?: +(?:\d+\.\d+|-|[A-Z]{2,3})){6}|^mAP \d.*|\[[> ]+\] .*|[\w ]+: +\d+%.*|'
    r'\d+/\d+ .*: NDS .*|drawing .*|.* pictures in .*|.* keyframes, .*'
)
NEXT = """The fine-tuned model has had two more epochs than the base; what of the difference is the
bias, docs/study/README.md says. Next:
  pictures, the curve of the scale        work_dirs/demo/
  your own CMT config with the bias       README.md, "Add it to your CMT config"
  nuScenes                                docs/training_on_nuscenes.md"""


class Step(NamedTuple):
    """One command."""

    name: str
    """Of its log file and its row of the closing table."""
    command: tuple[str, ...]
    """Tool and options."""
    done: Path | None = None
    """A file that the tool writes last: where it is, the step is not made again."""


class StepFailedError(Exception):
    """A step's command ended with an error; the message names its log."""


def train_folder(root: Path, config: str, options: Sequence[str] = ()) -> Path:
    """Work folder of a training, named after the config and a digest of all its settings.

    Shipped weights that the config starts from count too.
    """
    cfg = Config.fromfile(config, import_custom_modules=False)
    start = filter(None, [shipped_digest(cfg.get('load_from'))])
    settings = json.dumps([cfg.to_dict(), *options, *start], sort_keys=True, default=str)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return root / f'{Path(config).stem.split("_")[0]}-{digest}'


def data_steps(data: Path, *size: str, label: str = '') -> list[Step]:
    """Write a synthetic dataset, its size as the generator's options, and make its info files."""
    create = ('tools/create_synthetic_nuscenes.py', *size, '--out', str(data))
    convert = ('tools/create_data.py', 'nuscenes', '--root-path', str(data))
    done = data / 'nuscenes_dbinfos_train.pkl'
    return [Step(f'data{label}', create), Step(f'conversion{label}', convert, done)]


def train_step(
    root: Path, name: str, config: str, options: Sequence[str] = (), processes: int = 1
) -> tuple[Step, Path, str]:
    """Train, or go on, without validation: another step tests the last checkpoint.

    Returns:
        The step, its work folder, and that checkpoint.
    """
    epochs = Config.fromfile(config, import_custom_modules=False).train_cfg.max_epochs
    options = [*options, f'train_cfg.val_begin={epochs + 1}']
    folder = train_folder(root, config, options)
    command: tuple[str, ...] = ('tools/train.py', config, '--work-dir', str(folder), '--resume')
    if processes > 1:
        launch = ('-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}')
        command = (*launch, *command, '--launcher', 'pytorch')
    step = Step(name, (*command, '--cfg-options', *options))
    return step, folder, str(folder / f'epoch_{epochs}.pth')


def demo_steps(root: Path) -> list[Step]:
    """The shipped base, fine-tuned with the learned scale on a small dataset."""
    training, _, checkpoint = train_step(root, 'fine-tuning', FINETUNED)
    base = f'{BASE}:cmt_bias://{SHIPPED}'
    pictures = ('--out-dir', str(root / 'pictures'), '--max-samples', '6')
    return [
        *data_steps(Path('data/synthetic'), '--preset', 'demo'),
        training,
        Step('test', ('tools/test.py', FINETUNED, checkpoint, '--work-dir', str(root / 'test'))),
        Step(
            'sensors',
            (
                *('tools/test_robustness.py', FINETUNED, base, checkpoint),
                *('--names', 'base', 'fine-tuned', '--work-dir', str(root / 'sensors')),
                *('--failures', *list(SENSORS)[1:]),
            ),
        ),
        Step('pictures', ('tools/visualize.py', FINETUNED, checkpoint, *pictures)),
    ]


def base_steps(root: Path) -> list[Step]:
    """The base from nothing: data, pretraining of the branches, training, tests, weights."""
    data, small = Path('data/synthetic_base'), Path('data/synthetic_small')
    steps = [*data_steps(data, '--preset', 'base'), *data_steps(small, *SMALL, label=' small')]
    checkpoint, runs = '', []
    for name, config in BASE_TRAININGS.items():
        start = [f'load_from={checkpoint}'] if checkpoint else []
        options = [*data_options(data), *start]
        step, folder, checkpoint = train_step(root, name, config, options, processes=2)
        steps.append(step)
        runs.append(f'{name}={folder}')

    def test(name: str, modality: str, on: Path) -> Step:
        command = ('tools/test.py', BASE, checkpoint, '--modality', modality, '--work-dir')
        options = ('--cfg-options', *data_options(on))
        return Step(f'test {name}', (*command, str(root / f'test_{name}'), *options))

    tests = [test(name, name, data) for name in ('LC', 'L', 'C')] + [test('small', 'LC', small)]
    scores = [f'{name}={root}/test_{name}' for name in ('LC', 'L', 'C', 'small')]
    ship = ('tools/ship_weights.py', SHIPPED, BASE, checkpoint, '--scores', *scores)
    return [*steps, *tests, Step('weights', (*ship, '--runs', *runs))]


def data_options(data: Path) -> list[str]:
    """``--cfg-options`` that point a config to a dataset."""
    options = [
        f'{split}_dataloader.dataset.data_root={data}/' for split in ('train', 'val', 'test')
    ]
    for evaluator in ('val_evaluator', 'test_evaluator'):
        options += [f'{evaluator}.data_root={data}/', f'{evaluator}.ann_file={data}/{VAL_INFOS}']
    return options


def run_steps(steps: Sequence[Step], log_dir: Path, console: Console) -> list[float]:
    """Run one after the other; the seconds that each took. StepFailedError if a command fails."""
    seconds = []
    for number, step in enumerate(steps, start=1):
        log_file = log_dir / f'{step.name.replace(" ", "_")}.log'
        console.rule(f'step {number} of {len(steps)}: {step.name}', align='left')
        console.print(shlex.join(['python', *step.command]), soft_wrap=True)
        if step.done is not None and step.done.is_file():
            console.print(f'done before: {step.done}', style='green')
            seconds.append(0.0)
            continue
        start = time.monotonic()
        status = run_logged([sys.executable, *step.command], log_file, SHOWN)
        seconds.append(time.monotonic() - start)
        if status != 0:
            last_lines = log_file.read_text(errors='replace').splitlines()[-LINES_OF_A_FAILURE:]
            console.print(*last_lines, sep='\n', markup=False, soft_wrap=True)
            raise StepFailedError(f'{step.name} ended with status {status}; log: {log_file}')
        console.print(f'{seconds[-1]:.0f} s; log: {log_file}', style='green')
    return seconds


def run_logged(command: Sequence[str], log_file: Path, shown: str = '.*') -> int:
    """Run a command, showing its progress as it comes and adding its output to a log file.

    Args:
        command: Program and arguments; run in the current folder.
        log_file: Its folder is made if need be.
        shown: Regular expression of what is shown of a line; all of it by default. A progress
            bar that is drawn again over itself counts as a new line each time.

    Returns:
        The exit status.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, 'PYTHONUNBUFFERED': '1'}
    with log_file.open('ab') as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        assert process.stdout is not None
        try:
            # Lines end with \n or \r, and keep what they end with.
            for line in io.TextIOWrapper(process.stdout, 'utf-8', 'surrogateescape', newline=''):
                log.write(line.encode('utf-8', 'surrogateescape'))
                log.flush()
                text = line.rstrip('\r\n').encode('utf-8', 'replace').decode()
                found = re.search(shown, text)
                if found and (found.group() or shown == '.*'):
                    print(found.group(), end=line[len(text) :] or '\n', flush=True)
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def scores_table(robustness_csv: Path) -> str:
    """mAP / NDS of each model with both sensors, without cameras, without LiDAR."""
    scores = pd.read_csv(robustness_csv)
    numbers = scores[['mAP', 'NDS']].map('{:.3f}'.format)
    scores['text'] = numbers['mAP'] + ' / ' + numbers['NDS']
    table = scores.pivot(index='model', columns='failure', values='text').fillna('-')
    table = table.reindex(index=scores['model'].unique(), columns=list(SENSORS), fill_value='-')
    title = 'official nuScenes metric on the synthetic validation scenes: mAP / NDS'
    return f'{title}\n\n{table.rename(columns=SENSORS).to_markdown(disable_numparse=True)}'


def main() -> None:
    """Run the steps from the repository's root, wherever it was called from."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('what', nargs='?', choices=('demo', 'base'), default='demo')
    what = parser.parse_args().what
    os.chdir(REPOSITORY)
    # Being told to stop ends the running step too, and is said like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Captured output has no terminal width: wide enough that paths are not cut.
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    root = Path('work_dirs') / what
    steps = demo_steps(root) if what == 'demo' else base_steps(root)
    try:
        seconds = run_steps(steps, root / 'logs', console)
    except StepFailedError as error:
        console.print(f'stopped: {error}', style='red', soft_wrap=True)
        console.print(f'what is done is kept: mend the cause and run `make {what}` again')
        sys.exit(1)
    except KeyboardInterrupt:
        console.print(f'\ninterrupted; run `make {what}` again to go on from here')
        sys.exit(130)
    times = Table('step', 'seconds')
    for step, taken in zip(steps, seconds, strict=True):
        times.add_row(step.name, f'{taken:.0f}')
    times.add_row('all', f'{sum(seconds):.0f}')
    console.print(times)
    if what == 'demo':
        print(f'\n{scores_table(root / "sensors" / "robustness.csv")}\n\n{NEXT}')


if __name__ == '__main__':
    main()
