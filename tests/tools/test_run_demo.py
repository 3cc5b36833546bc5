"""The commands of `make demo` and `make base`, and how they are run."""

import io
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cmt_bias.checkpoints import shipped_weights

from .tool_modules import load_tool

REPOSITORY = Path(__file__).resolve().parents[2]


run_demo = load_tool('run_demo')


def run(steps: list['run_demo.Step'], folder: Path) -> tuple[list[float], str]:
    """Seconds of each step, and what was announced."""
    text = io.StringIO()
    seconds = run_demo.run_steps(steps, folder, Console(file=text, width=200))
    return seconds, text.getvalue()


def test_steps_run_in_a_row_and_one_that_is_done_is_left_alone(tmp_path):
    tool = tmp_path / 'append.py'
    tool.write_text("import sys; open(sys.argv[1], 'a').write(sys.argv[2])")
    log = tmp_path / 'words'
    steps = [run_demo.Step(word, (str(tool), str(log), word), done=log) for word in ('a', 'b')]
    seconds, announced = run(steps, tmp_path)
    assert log.read_text() == 'a'  # with its file there, the second is done
    assert seconds[0] > 0 and seconds[1] == 0
    assert 'step 1 of 2: a' in announced and 'done before' in announced


def test_a_failing_step_stops_the_row_and_shows_the_end_of_its_log(tmp_path):
    broken = tmp_path / 'broken.py'
    broken.write_text("print('begun'); raise SystemExit('no such thing')")
    never = tmp_path / 'never'
    steps = [
        run_demo.Step('breaks', (str(broken),)),
        run_demo.Step('follows', ('-c', f"open({str(never)!r}, 'w')")),
    ]
    text = io.StringIO()
    with pytest.raises(run_demo.StepFailedError, match=r'breaks ended with status 1; log: .*'):
        run_demo.run_steps(steps, tmp_path, Console(file=text, width=200))
    assert 'begun' in text.getvalue() and 'no such thing' in text.getvalue()
    assert not never.exists()


@pytest.mark.parametrize('what', ['demo', 'base'])
def test_every_step_names_a_tool_that_exists(what, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    steps = getattr(run_demo, f'{what}_steps')(Path('work_dirs') / what)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    for step in steps:
        assert any((REPOSITORY / word).is_file() for word in step.command[:5])
        for word in step.command:
            if word.endswith('.py') and ':' not in word:
                assert (REPOSITORY / word).is_file()


def test_each_training_of_the_base_starts_from_the_one_before_and_the_last_is_shipped(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    steps = {step.name: step.command for step in run_demo.base_steps(Path('base'))}
    names = list(run_demo.BASE_TRAININGS)
    folders = {
        name: steps[name][steps[name].index('--work-dir') + 1] for name in run_demo.BASE_TRAININGS
    }
    for before, name in itertools.pairwise(names):
        (start,) = [word for word in steps[name] if word.startswith('load_from=')]
        assert start.startswith(f'load_from={folders[before]}/epoch_')
    assert steps['weights'][3].startswith(f'{folders[names[-1]]}/epoch_')


def test_other_settings_train_in_another_folder(tmp_path):
    config = tmp_path / 'recipe.py'
    config.write_text('lr = 1\n')
    first = run_demo.train_folder(tmp_path, str(config))
    assert run_demo.train_folder(tmp_path, str(config)) == first
    assert run_demo.train_folder(tmp_path, str(config), ['lr=2']) != first
    config.write_text('lr = 2\n')
    assert run_demo.train_folder(tmp_path, str(config)) != first


def test_other_weights_of_the_package_to_start_from_train_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped_weights, 'FOLDER', tmp_path)
    config = tmp_path / 'recipe.py'
    config.write_text("load_from = 'cmt_bias://base'\n")
    folders = set()
    for digest in ('1', '2', '2'):
        (tmp_path / 'base.json').write_text(f'{{"sha256": "{digest}"}}')
        folders.add(run_demo.train_folder(tmp_path, str(config)))
    assert len(folders) == 2


def test_the_closing_table_has_both_models_with_and_without_sensors(tmp_path):
    table = tmp_path / 'robustness.csv'
    table.write_text(
        'model,failure,NDS,mAP\nbase,clean,0.4,0.3\nbase,lidar_drop,0.2,0.1\nother,clean,0.5,0.6\n'
    )
    *_, base, other = run_demo.scores_table(table).splitlines()
    cells = [cell.strip() for cell in base.strip('|').split('|')]
    assert cells == ['base', '0.300 / 0.400', '-', '0.100 / 0.200']
    assert '0.600 / 0.500' in other


def test_output_is_passed_on_while_the_command_runs(tmp_path, monkeypatch):
    """The command ends well only if its first line is shown while it waits for that."""
    shown = tmp_path / 'shown'
    waiting = (
        'import sys, time; from pathlib import Path; print("begun", flush=True)\n'
        'for _ in range(600): time.sleep(0.05); Path(sys.argv[1]).exists() and sys.exit(0)\n'
        'sys.exit(1)'
    )
    monkeypatch.setattr(run_demo, 'print', lambda *_, **__: shown.touch(), raising=False)
    log = tmp_path / 'log'
    assert run_demo.run_logged([sys.executable, '-c', waiting, str(shown)], log) == 0
    assert log.read_text() == 'begun\n'


def test_of_each_line_only_what_is_asked_for_is_shown_and_all_is_logged(tmp_path, capfd):
    output = 'a config\nloss: 0.5  d0: 0.1\n10%\r50% ä\rdone\nloss: 0.4'
    command = [sys.executable, '-X', 'utf8', '-c', f'print({output!r}, end="")']
    assert run_demo.run_logged(command, tmp_path / 'log', r'loss: \S+|\d+%.*') == 0
    assert capfd.readouterr().out == 'loss: 0.5\n10%\r50% ä\rloss: 0.4\n'
    assert (tmp_path / 'log').read_bytes().decode() == output


def test_what_is_no_text_is_logged_as_it_was_written(tmp_path, capfd):
    writing = 'import sys; sys.stdout.buffer.write(b"a\\xff\\xfeb\\n")'
    assert run_demo.run_logged([sys.executable, '-c', writing], tmp_path / 'log') == 0
    assert (tmp_path / 'log').read_bytes() == b'a\xff\xfeb\n'
    assert capfd.readouterr().out == 'a??b\n'


def test_log_lines_of_the_tools_are_shown_and_their_configs_are_not():
    shown = {
        '11/22 - mmengine - INFO - Epoch(train) [1][50/60]  lr: 1e-4  loss: 9.1  d0.x: 1': (
            'Epoch(train) [1][50/60]  lr: 1e-4  loss: 9.1'
        ),
        '11/22 - mmengine - INFO - Saving checkpoint at 1 epochs': 'Saving checkpoint at 1 epochs',
        "dict(type='RunSummaryHook'),": None,
        '  traffic_cone           0.311   0.300   0.200       -       -       -  ': (
            '  traffic_cone           0.311   0.300   0.200       -       -       -'
        ),
        'mAP 0.3100   NDS 0.4100': 'mAP 0.3100   NDS 0.4100',
        '    num_classes=10,': None,
        '2D boxes:  17%|#7 | 1/6 [00:01<00:08]': '2D boxes:  17%|#7 | 1/6 [00:01<00:08]',
        '[>>   ] 2/12, 6.6 task/s': '[>>   ] 2/12, 6.6 task/s',
        'load 28 motorcycle database infos': None,
        '3/6 base / lidar_drop: NDS 0.2 mAP 0.1': '3/6 base / lidar_drop: NDS 0.2 mAP 0.1',
    }
    for line, expected in shown.items():
        found = run_demo.re.search(run_demo.SHOWN, line)
        assert (found and found.group()) == expected, line


def test_interrupted_demo_ends_the_running_command(tmp_path):
    sleeping = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'
    call = (
        # A shell that starts a job in the background makes it ignore SIGINT, and so its children.
        'import signal; signal.signal(signal.SIGINT, signal.default_int_handler);'
        'import sys; sys.path.insert(0, sys.argv[1]); import run_demo; from pathlib import Path;'
        f'run_demo.run_logged([sys.executable, "-c", {sleeping!r}], Path(sys.argv[2]))'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', call, str(REPOSITORY / 'tools'), str(tmp_path / 'log')],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    running = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(running, 0)
