"""Files that are no good checkpoints: one clear error each, whatever they are."""

import gzip
import io
import json
import os
import pickle
import random
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import CheckpointLoader
from torch import nn

from cmt_bias.checkpoints.latest_checkpoint import is_intact_checkpoint
from cmt_bias.checkpoints.safe_loading import (
    CheckpointError,
    load_checkpoint_safely,
    weights_of,
)

GOOD = {
    'state_dict': OrderedDict(nn.Linear(4, 3).state_dict()),
    'optimizer': {'state': {0: {'exp_avg': torch.ones(3)}}},
    'meta': {'epoch': 1, 'iter': 8, 'score': np.float64(0.5)},
}


def saved(content: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), file)
    return file.getvalue()


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def numpy_archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, weight=np.ones(3))
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        archive.addfile(tarfile.TarInfo('weights'), io.BytesIO(b''))
    return file.getvalue()


def safetensors() -> bytes:
    header = json.dumps({'w': {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}}).encode()
    return len(header).to_bytes(8, 'little') + header + bytes(4)


ODD_FILES: dict[str, Callable[[], bytes]] = {
    'empty': bytes,
    'one byte': lambda: b'\x80',
    'zeros': lambda: bytes(1000),
    'a web page': lambda: b'<!DOCTYPE html><html>404</html>',
    'a pointer of git lfs': lambda: b'version https://git-lfs.github.com/spec/v1\noid sha256:0',
    'a text': lambda: b'state_dict',
    'a zip archive of something else': lambda: zipped(readme=b'hello'),
    'an empty zip archive': zipped,
    'a zip archive with a broken pickle': lambda: zipped(**{'archive/data.pkl': b'\x80\x02}q'}),
    'arrays of numpy': numpy_archive,
    'an array of numpy': lambda: b'\x93NUMPY\x01\x00v\x00' + bytes(200),
    'a TorchScript program': scripted,
    'a tar archive': tarred,
    'safetensors': safetensors,
    'compressed': lambda: gzip.compress(saved(GOOD)),
    'a plain pickle': lambda: pickle.dumps({'state_dict': {'weight': np.ones(3)}}),
    'a plain pickle of an old protocol': lambda: pickle.dumps({'weight': [1.0]}, 0),
    'a whole model': lambda: saved(nn.Linear(1, 1)),
    'a list': lambda: saved([torch.ones(1)]),
    'a tensor': lambda: saved(torch.ones(1)),
    'nothing': lambda: saved(None),
    'a number': lambda: saved(5),
    'a class': lambda: saved({'state_dict': {}, 'class': nn.Linear}),
    'truncated': lambda: saved(GOOD)[:-300],
    'the first half of an old file': lambda: saved(GOOD, _use_new_zipfile_serialization=False)[
        :400
    ],
    'with bytes in front': lambda: b'\n' + saved(GOOD),
    'with NaN in a weight': lambda: saved({'state_dict': {'weight': torch.tensor([1, np.nan])}}),
}


@pytest.mark.parametrize('kind', ODD_FILES)
def test_odd_file_gives_one_clear_error_without_dangerous_advice(kind, tmp_path):
    path = tmp_path / 'odd.pth'
    path.write_bytes(ODD_FILES[kind]())
    with pytest.raises(CheckpointError) as refusal:
        CheckpointLoader.load_checkpoint(str(path), 'cpu')
    message = str(refusal.value)
    assert f"checkpoint '{path}'" in message
    assert 'Remedy' in message
    assert 'weights_only=False' not in message.partition('machine that you can throw away')[0]
    assert 'add_safe_globals' not in message
    assert refusal.value.__cause__ is None  # torch's error with its advice
    assert not is_intact_checkpoint(path)


@pytest.mark.parametrize(
    'content',
    [{}, {'state_dict': None}, {'state_dict': {}}, {'state_dict': [1]}, {'epoch': 3}],
)
def test_file_without_weights_is_named(content):
    with pytest.raises(CheckpointError, match=r"'x\.pth' has no weights.*Remedy"):
        weights_of(content, 'x.pth')


def test_weights_in_another_place_are_named():
    with pytest.raises(CheckpointError, match='only model, epoch'):
        weights_of({'model': {'weight': torch.ones(1)}, 'epoch': 1}, 'x.pth')


def test_folder_and_unreadable_file_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r'cannot be opened.*Remedy'):
        load_checkpoint_safely(tmp_path)
    assert not is_intact_checkpoint(tmp_path)
    assert not is_intact_checkpoint(tmp_path / 'missing.pth')


def same(one: dict, other: dict) -> bool:
    weights = all(torch.equal(one['state_dict'][k], v) for k, v in other['state_dict'].items())
    moment = one['optimizer']['state'][0]['exp_avg']
    return weights and torch.equal(moment, other['optimizer']['state'][0]['exp_avg'])


@pytest.mark.parametrize('new_format', [True, False])
def test_changed_file_is_refused_or_read_as_it_was_written(new_format, tmp_path):
    content = saved(GOOD, _use_new_zipfile_serialization=new_format)
    numbers = random.Random(0)
    path = tmp_path / 'changed.pth'
    changed_weights = 0
    for _ in range(300):
        changed = bytearray(content)
        changed[numbers.randrange(len(changed))] ^= 1 << numbers.randrange(8)
        path.write_bytes(changed)
        try:
            loaded = load_checkpoint_safely(path)
            changed_weights += not same(loaded, GOOD)
        except CheckpointError as error:
            assert str(path) in str(error)
            assert not is_intact_checkpoint(path)
        except (KeyError, AttributeError, TypeError):  # of `same`, on what was read
            changed_weights += 1
    if new_format:  # the old format has no checksums
        assert changed_weights == 0


def test_every_changed_bit_of_a_weight_is_noticed(tmp_path):
    weight = torch.arange(64, dtype=torch.float32)
    content = saved({'state_dict': {'weight': weight}})
    start = content.index(weight.numpy().tobytes())
    path = tmp_path / 'changed.pth'
    for bit in range(0, 8 * 4 * 64, 37):
        changed = bytearray(content)
        changed[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match='does not match its checksum'):
            load_checkpoint_safely(path)


def test_file_that_was_written_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        (tmp_path / 'unchecked.pth').write_bytes(saved(GOOD))
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(load_checkpoint_safely(tmp_path / 'unchecked.pth'), GOOD)


@pytest.mark.parametrize(
    ('place', 'name'),
    [
        (('state_dict', 'bias'), 'bias'),
        (('ema_state_dict', 'module.bias'), 'ema_state_dict.module.bias'),
        (('optimizer', 'state', 0, 'exp_avg'), 'optimizer.state.0.exp_avg'),
    ],
)
def test_nan_anywhere_is_damage_and_is_named(place, name, tmp_path):
    content = pickle.loads(pickle.dumps(GOOD))
    inner = content
    for key in place[:-1]:
        inner = inner.setdefault(key, {})
    inner[place[-1]] = torch.tensor([0.0, float('nan'), 0.0])
    torch.save(content, tmp_path / 'nan.pth')
    with pytest.raises(CheckpointError, match=f'(?s)holds NaN in {name}.*Remedy'):
        load_checkpoint_safely(tmp_path / 'nan.pth')


def test_infinite_range_and_metrics_that_are_none_are_no_damage(tmp_path):
    content = {
        'state_dict': {'scale_range': torch.tensor([-float('inf'), float('inf')])},
        'meta': {'mAP': torch.tensor(float('nan'))},
        'message_hub': {'runtime_info': {'best_score': float('nan')}},
    }
    torch.save(content, tmp_path / 'good.pth')
    assert load_checkpoint_safely(tmp_path / 'good.pth')['state_dict']['scale_range'].isinf().all()


def test_weights_that_a_wrapper_saved_get_the_models_names_and_keep_their_versions(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(2))
    for wrapper in (nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel):
        torch.save({'state_dict': wrapper(model).state_dict()}, tmp_path / 'wrapped.pth')
        weights = load_checkpoint_safely(tmp_path / 'wrapped.pth')['state_dict']
        assert set(model.state_dict()) <= set(weights)
        assert weights._metadata['0'] == {'version': 2}


@pytest.mark.skipif(os.geteuid() == 0, reason='root reads every file')
def test_file_of_another_user_is_named(tmp_path: Path):
    path = tmp_path / 'secret.pth'
    path.write_bytes(saved(GOOD))
    path.chmod(0)
    with pytest.raises(CheckpointError, match='cannot be opened: Permission denied'):
        load_checkpoint_safely(path)
