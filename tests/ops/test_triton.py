"""The Triton kernels: their numbers in Triton's interpreter, on a CPU, and their registers."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmt_bias.ops import NOT_SEEN, TokenLayout, Window, triton_attention
from cmt_bias.ops.triton_attention import Launch, Tiles

from .cases import (
    assert_exact_in_float32,
    layouts,
    random_case,
    relative_errors,
    shapes,
    without_bias_by_torch,
)

pytestmark = pytest.mark.skipif(
    triton_attention._why_not_here() is not None, reason=str(triton_attention._why_not_here())
)
SMALL = Launch(Tiles(16, 32, 4, 1), Tiles(16, 32, 4, 1), programs=(7, 7))
# The interpreter takes a second for what a GPU does in microseconds.
few_examples = settings(
    max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def triton_on_cpu(monkeypatch):
    """Let the backend take tensors on a CPU, which the interpreter computes with."""
    monkeypatch.setattr(triton_attention, 'why_not', lambda *_: None)
    launch_with(monkeypatch, SMALL)


@pytest.fixture(autouse=True)
def every_access_is_inside_a_tensor(monkeypatch):
    """Triton's interpreter reads and writes at any address; here only what a kernel was given."""
    from triton.runtime import interpreter

    builder, convert = interpreter.InterpreterBuilder, interpreter._implicit_cvt
    load, store = builder.create_masked_load, builder.create_masked_store
    run = interpreter.GridExecutor.__call__
    given = []

    def called(self, *args, **kwargs):
        given.clear()
        return run(self, *args, **kwargs)

    def converted(argument):
        if isinstance(argument, torch.Tensor):
            given.append((argument.data_ptr(), argument.data_ptr() + argument.nbytes))
        return convert(argument)

    def check(pointers, mask):
        first = pointers.data[mask.data].astype(np.int64)[:, None]
        end = first + pointers.get_element_ty().primitive_bitwidth // 8
        starts, ends = np.array(given).T
        assert ((first >= starts) & (end <= ends)).any(1).all(), 'access outside of all tensors'

    def checked_load(self, pointers, mask, *args):
        check(pointers, mask)
        return load(self, pointers, mask, *args)

    def checked_store(self, pointers, values, mask, *args):
        check(pointers, mask)
        return store(self, pointers, values, mask, *args)

    monkeypatch.setattr(interpreter.GridExecutor, '__call__', called)
    monkeypatch.setattr(interpreter, '_implicit_cvt', converted)
    monkeypatch.setattr(builder, 'create_masked_load', checked_load)
    monkeypatch.setattr(builder, 'create_masked_store', checked_store)


def test_an_access_outside_of_tensors_would_be_found():
    """Of the check itself: a map with one row more than there are keys."""
    inputs = small_case().inputs()
    rows, *sizes = inputs.sizes
    with pytest.raises(Exception, match='outside of all tensors'):
        triton_attention.attend(inputs._replace(sizes=[rows + 1, *sizes]))


def launch_with(monkeypatch, launch):
    monkeypatch.setattr(Launch, 'default', classmethod(lambda cls, query: launch))


def small_case(seed=0, layout=TokenLayout((6, 7), 2, (4, 5)), window=(Window(1), Window(2)), **kw):  # noqa: B008
    kw = dict(dict(batch=1, heads=1, queries=19), **kw)
    return random_case(seed, layout, window, **kw)


def assert_exact(case):
    expected = case.to(torch.float64).run('by definition')
    assert_exact_in_float32(case, 'triton', expected)


@few_examples
@given(
    seed=st.integers(0, 1000),
    layout=layouts,
    window=shapes,
    batch=st.integers(1, 2),
    queries=st.integers(1, 20),
    strength_size=st.sampled_from([0.0, 2.0, 30.0]),
    seen=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_any_geometry_and_strength(seed, layout, window, batch, queries, strength_size, seen):
    sizes = dict(batch=batch, heads=1, queries=queries, strength_size=strength_size, seen=seen)
    assert_exact(small_case(seed, layout, window, **sizes))


@few_examples
@given(seed=st.integers(0, 1000), layout=layouts, window=shapes, seen=st.sampled_from([0.0, 0.5]))
def test_attention_to_windows_alone(seed, layout, window, seen):
    assert_exact(small_case(seed, layout, window, heads=1, strength_size=None, seen=seen))


@pytest.mark.parametrize('programs', [1, 50])
@pytest.mark.parametrize('strength_size', [3.0, None])
def test_keys_shared_out_to_any_number_of_programs(monkeypatch, programs, strength_size):
    launch_with(monkeypatch, SMALL._replace(programs=(programs, programs)))
    assert_exact(small_case(1, batch=2, heads=2, strength_size=strength_size))


def test_sorting_queries_changes_nothing_but_their_tiles():
    case = small_case(2, queries=37)
    in_order = case.run('triton')
    case = replace(case, windows=replace(case.windows, order=None))
    for name, tensor in case.run('triton').items():
        torch.testing.assert_close(tensor, in_order[name], rtol=1e-5, atol=1e-5)


def test_order_with_gaps_in_memory():
    case = small_case(2, queries=37, batch=2)
    expected = case.run('triton')
    order = torch.stack((case.windows.order, torch.full_like(case.windows.order, 99)), -1)[..., 0]
    case = replace(case, windows=replace(case.windows, order=order))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in case.run('triton').items())


@pytest.mark.parametrize('shapes', [(0, 1), (1, 0)])
def test_a_whole_modality_has_no_profile(shapes):
    windows = Window(None, 1.0), Window(2, 1.0)
    assert_exact(small_case(5, window=tuple(windows[number] for number in shapes)))


@pytest.mark.parametrize('layout', [TokenLayout((30, 40)), TokenLayout(None, 3, (30, 40))])
def test_sorted_queries_need_the_bias_in_few_tiles(layout):
    """Of 512 queries in 8 tiles, in places drawn at random."""
    case = small_case(0, layout, queries=512, seen=1.0 if layout.num_views == 0 else 0.4)
    areas = []
    inputs = case.inputs()
    for order in (inputs.order, None):
        arguments = triton_attention.kernel_arguments(
            inputs._replace(order=order), Tiles(64, 64, 4, 1)
        )
        assert arguments['Order'].sort(-1).values[0].tolist() == list(range(512))
        low_row, high_row, low_column, high_column = arguments['Boxes'].unbind(-1)
        rows, columns = (high_row - low_row + 1), (high_column - low_column + 1)
        areas.append((rows.clamp(min=0) * columns.clamp(min=0)).sum().item())
    assert areas[0] < 0.6 * areas[1]


@pytest.mark.parametrize('channels', [5, 16, 24])
def test_any_number_of_channels(channels):
    assert_exact(small_case(channels, channels=channels))


def test_scores_up_to_100_and_strengths_of_30():
    case = small_case(3, strength_size=30.0)
    scores = (case.query @ case.key.mT).abs().max() * 8**-0.5
    assert_exact(replace(case, query=case.query * (100 / scores)))


def test_all_keys_in_the_window_with_a_strongly_negative_bias():
    case = small_case(4, TokenLayout((3, 3), 1, (3, 4)), (Window(3), Window(4)), seen=1.0)
    case.strength[:] = -30.0
    assert_exact(case)


@pytest.mark.parametrize('number', [float('nan'), float('inf')])
@pytest.mark.parametrize('name', ['query', 'key', 'value'])
@pytest.mark.filterwarnings('ignore:invalid value')
def test_nan_and_infinity_come_out_as_from_the_definition(number, name):
    case = small_case(0, batch=1, heads=1, queries=5)
    getattr(case, name)[0, 0, 3, 2] = number
    inputs = (case.query, case.key, case.value, case.strength)
    actual, expected = case.attend(*inputs, 'triton'), case.attend(*inputs, 'by definition')
    torch.testing.assert_close(actual, expected, equal_nan=True)


def test_keys_with_gaps_between_rows():
    case = small_case(5)
    spread = torch.full((*case.key.shape[:3], 20), torch.nan)
    spread[..., :8] = case.key
    found, expected = replace(case, key=spread[..., :8]).run('triton'), case.run('triton')
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_same_result_every_time():
    case = small_case(5)
    first, second = case.run('triton'), case.run('triton')
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_query_without_any_key_gets_zeros_and_gives_no_gradient():
    case = small_case(6, strength_size=None)
    case.windows.cells[:, 4, :, 0] = NOT_SEEN
    found = case.run('triton')
    assert not found['output'][:, :, 4].any() and not found['query'][:, :, 4].any()


@pytest.mark.parametrize('strength_size', [1.0, 5.0])
def test_half_precision_is_as_exact_as_without_a_bias(strength_size):
    """Errors against float64 on the same rounded inputs; the interpreter has no bfloat16."""
    case = small_case(7, strength_size=strength_size, channels=16).to(torch.float16)
    exact = case.to(torch.float64)
    found = relative_errors(case.run('triton'), exact.run('by definition'))
    plain = relative_errors(without_bias_by_torch(case), without_bias_by_torch(exact))
    for name in ('output', 'query', 'key', 'value'):
        assert found[name] <= 2 * plain[name], name
    assert found['strength'] < 2e-3


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, 'fp32_precision'), reason='torch < 2.9'
)
@pytest.mark.parametrize('precision', ['tf32', 'ieee'])
@pytest.mark.parametrize('switch', [torch.backends, torch.backends.cuda.matmul])
def test_tf32_is_used_where_torchs_new_switches_say_so(switch, precision):
    """Reading the old switch is an error once a new one was set."""
    before = switch.fp32_precision
    switch.fp32_precision = precision
    try:
        arguments = triton_attention.kernel_arguments(small_case().inputs(), SMALL.forward)
    finally:
        switch.fp32_precision = before
    assert arguments['PRECISION'] == precision


def test_default_tiles_spill_no_registers():
    """Compiled for compute capabilities 8.0 and 9.0 by triton's own ptxas; needs no GPU.

    All kernels are compiled where Triton makes constants of numbers, which the interpreter does
    not do.
    """
    script = Path(__file__).with_name('compile_triton_kernels.py')
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    usage = json.loads(done.stdout.splitlines()[-1])
    assert len(usage) == 12
    for kernel, found in usage.items():
        assert found['spilled'] == 0 and found['registers'] <= 255, (kernel, found)
