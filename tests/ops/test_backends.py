"""Which backend runs, and what is said about it."""

import ctypes
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cmt_bias.ops import (
    QueryWindows,
    TokenLayout,
    Window,
    WindowedBias,
    biased_attention,
    cpu,
    operator,
    triton_attention,
    window_attention,
)

from .cases import random_case


def attend(case, backend='auto'):
    bias = WindowedBias(case.windows, case.strength)
    return biased_attention(case.query, case.key, case.value, bias, backend=backend)


def test_unknown_backend_names_those_that_there_are():
    with pytest.raises(ValueError, match=r"unknown backend 'fast'; there are auto, "):
        attend(random_case(), 'fast')


@pytest.mark.cpu_backend
def test_backend_that_cannot_run_says_why():
    with pytest.raises(RuntimeError, match=r"'cpu' cannot run: .* empty tensors.*backend='auto'"):
        attend(random_case(queries=0), 'cpu')
    with pytest.raises(RuntimeError, match=r"'triton' cannot run: "):
        attend(random_case(), 'triton')


@pytest.mark.cpu_backend
def test_heads_too_wide_for_the_compiled_loop_are_left_to_others():
    case = random_case(channels=520)
    with pytest.raises(RuntimeError, match='heads of 520 channels do not fit .*at most 512'):
        attend(case, 'cpu')
    torch.testing.assert_close(attend(case, 'auto'), attend(case, 'dense'))


def test_map_with_too_many_cells_for_the_fused_kernels_is_left_to_others(monkeypatch):
    on_cuda = SimpleNamespace(
        device=torch.device('cuda'), dtype=torch.float32, shape=(1, 1, 1, 8), numel=lambda: 8
    )
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: (8, 0))
    monkeypatch.setattr(triton_attention, '_why_not_here', lambda: None)
    inputs = random_case().inputs()._replace(query=on_cuda)
    for sizes in ([1024, 1023, 0, 0, 0], [0, 0, 2, 1024, 1023]):
        assert triton_attention.why_not(inputs._replace(sizes=[*sizes, 1, 1])) is None
        sizes = [size + (size == 1023) for size in sizes]
        assert 'too large' in triton_attention.why_not(inputs._replace(sizes=[*sizes, 1, 1]))


@pytest.mark.cpu_backend
def test_without_the_compiled_loop_the_dense_backend_runs(monkeypatch):
    expected = attend(random_case(), 'dense')
    monkeypatch.setattr(cpu, 'load_kernel', lambda: 'it was not compiled')
    assert torch.equal(attend(random_case()), expected)
    with pytest.raises(RuntimeError, match="'cpu' cannot run: it was not compiled"):
        attend(random_case(), 'cpu')


def test_missing_library_is_a_warning_that_names_the_remedy(tmp_path, monkeypatch, caplog):
    shutil.copy(Path(cpu.__file__).with_name('cpu_kernel.cpp'), tmp_path)
    monkeypatch.setattr(cpu, '__file__', str(tmp_path / 'cpu.py'))
    with caplog.at_level(logging.WARNING, logger='cmt_bias'):
        assert 'was not compiled' in cpu.load_kernel.__wrapped__()
    assert 'Install cmt-bias again where there is a C++ compiler' in caplog.text


def test_library_of_another_source_is_not_used(tmp_path, monkeypatch):
    """After an update without an installation; its arguments may have another order."""
    folder = Path(cpu.__file__).parent
    for path in (folder / 'cpu_kernel.cpp', *folder.glob('_cpu_kernel*.so')):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(cpu, '__file__', str(tmp_path / 'cpu.py'))
    assert isinstance(cpu.load_kernel.__wrapped__(), ctypes.CDLL)
    with open(tmp_path / 'cpu_kernel.cpp', 'a') as source:
        source.write('// changed')
    assert 'in this version was not compiled' in cpu.load_kernel.__wrapped__()


@pytest.mark.cpu_backend
def test_automatic_choice_is_logged_once(caplog, monkeypatch):
    monkeypatch.setattr(operator, '_logged_choices', set())
    case = random_case()
    with caplog.at_level(logging.INFO, logger='cmt_bias'):
        for _ in range(2):
            attend(case)
            window_attention(case.query, case.key, case.value, case.windows)
    assert [record.getMessage().partition(' (')[0] for record in caplog.records] == [
        "attention with a bias runs on backend 'cpu' on cpu in torch.float32",
        "attention to windows runs on backend 'cpu' on cpu in torch.float32",
    ]


@pytest.mark.skipif(not hasattr(torch.library, 'opcheck'), reason='torch 2.4 brings the check')
@pytest.mark.parametrize('backend', ['cpu', 'dense'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('strength_size', [2.0, None])
def test_the_registered_operators_pass_torchs_checks(backend, dtype, strength_size):
    inputs = random_case(strength_size=strength_size).to(dtype).inputs()
    tensors = [tensor.requires_grad_() for tensor in inputs[:3]]
    arguments = (*tensors, *inputs[3:], backend)
    checks = 'test_schema', 'test_autograd_registration', 'test_faketensor'
    torch.library.opcheck(operator._forward_operator, arguments, test_utils=checks)
    with torch.no_grad():
        output, *kept = operator._forward_operator(*arguments)
        arguments = (torch.ones_like(output), *arguments, output, *kept)
        checks = 'test_schema', 'test_faketensor'
        torch.library.opcheck(operator._backward_operator, arguments, test_utils=checks)


def test_sorting_is_compiled_once_for_all_numbers_of_queries():
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    windows = random_case().windows

    def order_of(cells):
        return QueryWindows(windows.layout, cells, windows.shapes).sorted().order

    compiled = torch.compile(order_of, backend=keep, dynamic=True, fullgraph=True)
    for queries in (60, 75, 120, 500):
        cells = random_case(queries=queries).windows.cells
        assert torch.equal(compiled(cells), order_of(cells))
    assert len(graphs) == 1


def test_second_derivatives_are_refused():
    case = random_case()
    case.query.requires_grad_()
    with pytest.raises(RuntimeError, match='differentiated once only'):
        torch.autograd.grad(attend(case).sum(), case.query, create_graph=True)


@pytest.mark.parametrize('backend', ['cpu', 'dense'])
def test_autocast_casts_as_for_attention_without_a_bias(backend):
    case = random_case()
    strength = case.strength.requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = attend(case, backend)
        (grad,) = torch.autograd.grad(output.float().sum(), strength)
        to_windows = window_attention(case.query, case.key, case.value, case.windows)
    assert output.dtype == to_windows.dtype == torch.bfloat16
    assert grad.dtype == torch.float32
    torch.testing.assert_close(output.float(), attend(case, 'dense'), rtol=0, atol=0.05)


@pytest.mark.cpu_backend
def test_only_queries_that_lose_most_of_their_mass_take_the_slow_way():
    layout, window = TokenLayout((4, 4)), (Window(1), Window(1))
    case = random_case(0, layout, window, batch=1, queries=4, seen=1.0)
    case.strength[:] = torch.tensor([-30.0, 0.0, 30.0, -0.01]).unsqueeze(-1)
    case.query[:] = 0  # the mass is that of the keys' number
    case.query[0, 0, 2, 0] = torch.nan
    case.windows.cells[:] = 1  # 9 of 16 keys
    _, _, lost = cpu.attend(case.inputs())
    assert lost.tolist() == [[True, False, True, False]]
