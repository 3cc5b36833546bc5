"""The demo's bookkeeping, with real commands that are small."""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = Path('demo')


def load_tool(name: str):
    """A tool's module; tools are scripts and not part of the package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


run_demo = load_tool('run_demo')


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder of a test, with a tool that appends its argument to a file."""
    monkeypatch.chdir(tmp_path)
    DEMO.mkdir()
    (tmp_path / 'append.py').write_text(
        "import sys\nprint('appending', sys.argv[2])\nopen(sys.argv[1], 'a').write(sys.argv[2])\n"
    )


def append_step(name: str, word: str, **settings) -> 'run_demo.Step':
    output = DEMO / f'{name}.txt'
    command = ('append.py', str(output), word)
    return run_demo.Step(name=name, purpose=name, command=command, output=output, **settings)


def run(steps) -> tuple[list[float | None], str]:
    """One run of the demo: seconds of each step and what was announced."""
    text = io.StringIO()
    state = run_demo.DemoState(DEMO / 'state.json')
    return run_demo.run_steps(steps, state, Console(file=text, width=200)), text.getvalue()


@pytest.mark.usefixtures('folder')
def test_second_run_keeps_what_is_done():
    steps = [append_step('first', 'a'), append_step('second', 'b', needs=('first',))]
    spent, _ = run(steps)
    assert all(seconds > 0 for seconds in spent)
    spent, announced = run(steps)
    assert spent == [None, None]
    assert announced.count('done before, kept') == 2
    assert (DEMO / 'first.txt').read_text() == 'a'


@pytest.mark.usefixtures('folder')
def test_changed_command_redoes_the_step_and_those_that_need_it():
    steps = [
        append_step('first', 'a'),
        append_step('second', 'b', needs=('first',)),
        append_step('third', 'c'),
    ]
    run(steps)
    spent, _ = run([append_step('first', 'A'), *steps[1:]])
    assert [seconds is not None for seconds in spent] == [True, True, False]
    assert [(DEMO / f'{n}.txt').read_text() for n in ('first', 'second', 'third')] == [
        'A',
        'b',
        'c',
    ]


@pytest.mark.usefixtures('folder')
def test_changed_source_redoes_the_step():
    source = Path('source')
    source.mkdir()
    (source / 'code.py').write_text('1')
    steps = [append_step('first', 'a', sources=(source,))]
    run(steps)
    assert run(steps)[0] == [None]
    (source / 'code.py').write_text('2')
    assert run(steps)[0] != [None]


@pytest.mark.usefixtures('folder')
def test_setting_inherited_by_the_config_counts_and_a_comment_does_not():
    Path('base.py').write_text('epochs = 1\n')
    Path('recipe.py').write_text("_base_ = ['base.py']\n")
    steps = [append_step('first', 'a', config='recipe.py')]
    run(steps)
    Path('base.py').write_text('# a comment\nepochs = 1\n')
    assert run(steps)[0] == [None]
    Path('base.py').write_text('epochs = 2\n')
    assert run(steps)[0] != [None]


@pytest.mark.usefixtures('folder')
def test_missing_output_is_made_again():
    steps = [append_step('first', 'a')]
    run(steps)
    (DEMO / 'first.txt').unlink()
    assert run(steps)[0] != [None]
    assert (DEMO / 'first.txt').read_text() == 'a'


@pytest.mark.usefixtures('folder')
def test_failed_step_names_itself_and_its_log_and_the_rest_waits():
    Path('fail.py').write_text("print('the cause'); raise SystemExit(3)")
    failing = run_demo.Step('second', 'fails', ('fail.py',), DEMO / 'second.txt')
    with pytest.raises(run_demo.StepFailedError, match=r'second: .* status 3; log: .*second\.log'):
        run([append_step('first', 'a'), failing, append_step('third', 'c')])
    assert 'the cause' in (DEMO / 'logs' / 'second.log').read_text()
    assert not (DEMO / 'third.txt').exists()


@pytest.mark.usefixtures('folder')
def test_cut_off_step_goes_on_with_its_output():
    """The output of an interrupted training, its checkpoints, must be there for the resume."""
    Path('fail.py').write_text("open('demo/first.txt', 'w').write('half'); raise SystemExit(1)")
    failing = run_demo.Step('first', 'trains', ('fail.py',), DEMO / 'first.txt')
    with pytest.raises(run_demo.StepFailedError):
        run([failing])
    Path('fail.py').write_text("open('demo/first.txt', 'a').write(' whole')")
    run([failing])
    assert (DEMO / 'first.txt').read_text() == 'half whole'


@pytest.mark.usefixtures('folder')
def test_outdated_output_in_the_demo_folder_is_removed_before_a_new_start():
    (DEMO / 'first.txt').write_text('of another config ')
    run([append_step('first', 'a')])
    assert (DEMO / 'first.txt').read_text() == 'a'


@pytest.mark.usefixtures('folder')
def test_output_outside_the_demo_folder_is_left_to_the_tool():
    Path('data.txt').write_text("the user's ")
    step = run_demo.Step('data', 'writes', ('append.py', 'data.txt', 'a'), Path('data.txt'))
    run([step])
    run([replace(step, command=('append.py', 'data.txt', 'b'))])
    assert Path('data.txt').read_text() == "the user's ab"


@pytest.mark.usefixtures('folder')
def test_command_without_result_is_a_failure():
    Path('nothing.py').write_text('')
    step = run_demo.Step('first', 'does nothing', ('nothing.py',), DEMO / 'first.txt')
    with pytest.raises(run_demo.StepFailedError, match=r'first\.txt was not made'):
        run([step])


@pytest.mark.usefixtures('folder')
def test_last_checkpoint_is_put_into_the_command():
    Path('train').mkdir()
    Path('train/last_checkpoint').write_text('train/epoch_3.pth')
    command = ('append.py', 'demo/first.txt', run_demo.LAST_CHECKPOINT)
    step = run_demo.Step('first', 'tests', command, DEMO / 'first.txt', train_dir=Path('train'))
    run([step])
    assert (DEMO / 'first.txt').read_text() == 'train/epoch_3.pth'


@pytest.mark.usefixtures('folder')
def test_missing_checkpoint_is_named():
    command = ('append.py', 'demo/first.txt', run_demo.LAST_CHECKPOINT)
    step = run_demo.Step('first', 'tests', command, DEMO / 'first.txt', train_dir=Path('train'))
    with pytest.raises(run_demo.StepFailedError, match='last_checkpoint is missing'):
        run([step])


def test_metrics_come_from_the_newest_test(tmp_path):
    prefix = 'NuScenes metric/pred_instances_3d_NuScenes'
    for number, value in (('20260101_000000', 0.1), ('20260102_000000', 0.4)):
        file = tmp_path / number / f'{number}.json'
        file.parent.mkdir()
        content = {f'{prefix}/mAP': value, f'{prefix}/NDS': value + 0.1, f'{prefix}/mATE': 9.0}
        file.write_text(json.dumps(content))
    assert run_demo.read_metrics(tmp_path) == {'mAP': 0.4, 'NDS': 0.5}
    assert run_demo.read_metrics(tmp_path / 'none') == {}


def test_bias_scale_is_read_from_its_history(tmp_path):
    history = tmp_path / 'bias_scale.csv'
    assert run_demo.read_scale_path(history) == ''
    history.write_text('iteration,bias_scale/shared\n0,2.5\n20,2.25\n40,2.714\n')
    assert run_demo.read_scale_path(history) == '2.50 -> 2.71'


def test_model_that_starts_from_another_waits_for_it_and_loads_its_checkpoint(tmp_path):
    model = run_demo.DemoModel('second', 'configs/second.py', starts_from='first')
    training = run_demo.model_steps(model)[0]
    assert 'first_training' in training.needs
    assert training.train_dir == run_demo.WORK_DIR / 'first' / 'train'
    assert f'load_from={run_demo.LAST_CHECKPOINT}' in training.command


def test_every_step_of_the_demo_names_a_tool_and_a_config_that_exist():
    steps = run_demo.data_steps()
    for model in run_demo.MODELS:
        steps += run_demo.model_steps(model)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    for number, step in enumerate(steps):
        assert (REPOSITORY / step.command[0]).is_file()
        assert not step.config or (REPOSITORY / step.config).is_file()
        assert set(step.needs) <= set(names[:number])


def test_output_is_passed_on_while_the_command_runs(tmp_path):
    """The first line arrives before the command, which then waits for us, has ended."""
    waiting = "print('begun', flush=True); input()"
    call = (
        # A shell that starts a job in the background makes it ignore SIGINT, and so its children.
        'import signal; signal.signal(signal.SIGINT, signal.default_int_handler);'
        'import sys; sys.path.insert(0, sys.argv[1]); import run_demo; from pathlib import Path;'
        f'run_demo.run_logged([sys.executable, "-c", {waiting!r}], Path(sys.argv[2]))'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', call, str(REPOSITORY / 'tools'), str(tmp_path / 'log')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == 'begun\n'
    finally:
        process.communicate('\n', timeout=30)
    assert (tmp_path / 'log').read_text() == 'begun\n'


def test_of_each_line_only_what_is_asked_for_is_shown_and_all_is_logged(tmp_path, capfd):
    output = 'a config\nloss: 0.5  d0: 0.1\n10%\r50% ä\rdone\nloss: 0.4'
    command = [sys.executable, '-X', 'utf8', '-c', f'print({output!r}, end="")']
    assert run_demo.run_logged(command, tmp_path / 'log', r'loss: \S+|\d+%.*') == 0
    assert capfd.readouterr().out == 'loss: 0.5\n10%\r50% ä\rloss: 0.4\n'
    assert (tmp_path / 'log').read_bytes().decode() == output


def test_log_lines_of_the_tools_are_shown_and_their_configs_are_not():
    shown = {
        run_demo.TRAINING_LINES: {
            '11/22 - mmengine - INFO - Epoch(train) [1][50/60]  lr: 1e-4  loss: 9.1  d0.x: 1': (
                'Epoch(train) [1][50/60]  lr: 1e-4  loss: 9.1'
            ),
            '11/22 - mmengine - INFO - Saving checkpoint at 1 epochs': (
                'Saving checkpoint at 1 epochs'
            ),
            "dict(type='RunSummaryHook'),": None,
        },
        run_demo.SCORE_LINES: {
            '  traffic_cone           0.311   0.300   0.200       -       -       -  ': (
                '  traffic_cone           0.311   0.300   0.200       -       -       -'
            ),
            '  class                     AP     ATE     ASE     AOE     AVE     AAE  ': (
                '  class                     AP     ATE     ASE     AOE     AVE     AAE'
            ),
            'mAP 0.3100   NDS 0.4100': 'mAP 0.3100   NDS 0.4100',
            '    num_classes=10,': None,
        },
        run_demo.PROGRESS_BARS: {
            '2D boxes:  17%|#7 | 1/6 [00:01<00:08]': '2D boxes:  17%|#7 | 1/6 [00:01<00:08]',
            '[>>   ] 2/12, 6.6 task/s': '[>>   ] 2/12, 6.6 task/s',
            'load 28 motorcycle database infos': None,
        },
    }
    for pattern, lines in shown.items():
        for line, expected in lines.items():
            found = run_demo.re.search(pattern, line)
            assert (found and found.group()) == expected


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
