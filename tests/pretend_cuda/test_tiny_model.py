"""The whole tiny model with a bias on a CUDA device that is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
WAYS = ('float32', 'autocast', 'wrapped', 'triton')

pytestmark = [
    pytest.mark.skipif(
        torch.version.cuda is not None, reason='a build of torch for CUDA has hooks of its own'
    ),
]


@pytest.fixture(scope='module')
def reports(compile_library):
    """One process for all ways: most of its time are imports."""
    include = Path(torch.__file__).parent / 'include'
    library = compile_library(HERE / 'cuda_hooks.cpp', '-std=c++20', f'-I{include}')
    paths = [HERE.parents[1] / 'projects', HERE.parents[1], os.environ.get('PYTHONPATH', '')]
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join(map(str, paths)), TRITON_INTERPRET='1'
    )
    done = subprocess.run(
        [sys.executable, '-m', 'tests.pretend_cuda.tiny_model', library],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('way', WAYS)
def test_no_operator_mixes_devices(reports, way):
    assert reports[way]['faults'] == {}


@pytest.mark.parametrize('way', WAYS)
def test_every_parameter_gets_a_gradient(reports, way):
    assert reports[way]['without_gradient'] == []


def test_wrapped_for_several_processes_each_parameter_is_reported_once(reports):
    assert set(reports['wrapped']['received'].values()) == {1}


@pytest.mark.parametrize('way', WAYS)
def test_results_are_those_of_the_cpu(reports, way):
    found = reports[way]['distance']
    bars = (2e-2, 5e-2, 2e-2) if way == 'autocast' else (1e-5, 1e-4, 1e-5)
    for name, bar in zip(('losses', 'grads', 'scores'), bars, strict=True):
        assert found[name] < bar, (name, found)


@pytest.mark.parametrize('way', WAYS)
def test_host_syncs_are_few_and_none_is_the_bias_s(reports, way):
    for kind, most in (('training_syncs', 40), ('inference_syncs', 15)):
        syncs = reports[way][kind]
        assert sum(syncs.values()) <= most, syncs
        assert not [
            place for place in syncs if 'cmt_bias/bias/' in place or 'cmt_bias/ops/' in place
        ], syncs


def test_the_fused_kernel_is_launched_on_the_device_of_its_tensors(reports):
    """Which is not the current one here."""
    assert reports['triton']['launched_on'] == [0]


def test_the_fused_kernel_runs_where_it_can(reports):
    on_cuda = "attention with a bias runs on backend '{}' on cuda in torch.float32"
    assert on_cuda.format('dense') in reports['float32']['backends']
    assert on_cuda.format('triton') in reports['triton']['backends']
    assert on_cuda.format('triton') not in reports['float32']['backends']
