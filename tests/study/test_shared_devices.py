"""Jobs of a study on one machine share the devices that the user lets them see."""

import os

import pytest
import torch

from cmt_bias.runs.preflight import ProblemsFound
from cmt_bias.study.study_run import make_executors, share_devices


@pytest.mark.parametrize(
    ('environment', 'options', 'shares'),
    [
        (None, {}, ['0,1', '2,3']),
        ('7,6,5,4,3', {}, ['7,6', '5,4']),
        ('GPU-a, MIG-b,GPU-c,GPU-d', {}, ['GPU-a,MIG-b', 'GPU-c,GPU-d']),
        ('0,1,2,3', dict(visible_gpus=[4, 5, 6, 7]), ['4,5', '6,7']),
        (None, dict(visible_gpus=['GPU-a', 1, 'GPU-c', 3]), ['GPU-a,1', 'GPU-c,3']),
    ],
)
def test_jobs_share_the_devices_that_the_user_lets_them_see(
    environment, options, shares, tmp_path, monkeypatch
):
    see_devices(monkeypatch, environment, there=4)
    executors = make_executors(tmp_path, 'local', 2, processes=2, gpus=2, options=options)
    jobs = [executor.submit(os.getenv, 'CUDA_VISIBLE_DEVICES') for executor in executors]
    assert [job.results() for job in jobs] == [[share, share] for share in shares]


def test_runs_without_gpus_see_none(tmp_path, monkeypatch):
    see_devices(monkeypatch, '6,7', there=2)
    (executor,) = make_executors(tmp_path, 'local')
    assert executor.submit(os.getenv, 'CUDA_VISIBLE_DEVICES').result() == ''


@pytest.mark.parametrize(
    ('environment', 'named', 'said'),
    [
        (None, None, 'this machine has 3'),
        ('6,7', None, 'CUDA_VISIBLE_DEVICES names 2'),
        ('', None, 'CUDA_VISIBLE_DEVICES names 0'),
        ('6,7,-1,8', None, 'CUDA_VISIBLE_DEVICES names 2'),
        ('0,1,2,3', 4, '--submitit visible_gpus names 1'),
        ('0,1,2,3', [4, 5, 4, 5], '--submitit visible_gpus names 2'),
        ('0,1,2,3', 'GPU-a', '--submitit visible_gpus names 1'),
    ],
)
def test_more_gpus_than_there_are_devices_are_refused(environment, named, said, monkeypatch):
    see_devices(monkeypatch, environment, there=3)
    with pytest.raises(ProblemsFound) as found:
        share_devices(2, 2, named)
    (problem,) = found.value.problems
    assert problem.what == f'--jobs 2 with --gpus 2 each need 4 devices, but {said}'
    assert 'lower --jobs or --gpus' in problem.remedy


def see_devices(monkeypatch: pytest.MonkeyPatch, environment: str | None, there: int) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: there)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if environment is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', environment)
