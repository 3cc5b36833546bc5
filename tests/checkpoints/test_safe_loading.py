"""Checkpoints of mmengine load on torch >= 2.6; files that would run code are refused."""

import contextlib
import io
import os
import pickle
import re
import subprocess
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mmengine.runner.checkpoint
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.runner.checkpoint import get_mmcls_models
from torch import nn

from cmt_bias.checkpoints import safe_loading
from cmt_bias.checkpoints.safe_loading import (
    CheckpointError,
    load_checkpoint_safely,
)

repeatable = settings(derandomize=True, max_examples=60, deadline=None)


class Calls:
    """Pickles as a call: unpickling it without restriction runs the function."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def save_and_load(content: Any) -> Any:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return load_checkpoint_safely(file, source='test.pth')


def test_checkpoint_of_a_stock_run_loads_with_what_a_resume_needs(training_server):
    stock = training_server.uninterrupted(hook='CheckpointHook', validate=True, max_epochs=2)
    with pytest.raises(pickle.UnpicklingError, match='Weights only load failed'):
        torch.load(stock / 'epoch_2.pth', weights_only=True)  # what mmengine alone does
    checkpoint = load_checkpoint_safely(stock / 'epoch_2.pth')
    assert checkpoint['meta']['epoch'] == 2
    np.testing.assert_array_equal(checkpoint['meta']['dataset_meta']['anchors'], [0, 1, 2])
    assert set(checkpoint) >= {'state_dict', 'optimizer', 'param_schedulers'}
    # a numpy array of the validation; the logs of scalars are not read
    assert checkpoint['message_hub']['runtime_info']['val/per_sample'].shape == (4,)
    assert checkpoint['message_hub']['log_scalars'] == {}


def test_checkpoint_of_our_hook_is_plain_data(training_server):
    checkpoint = training_server.uninterrupted() / 'epoch_4.pth'
    loaded = torch.load(checkpoint, weights_only=True)
    histories = loaded['message_hub']['log_histories']
    recorded = (checkpoint.parent / 'losses_0.txt').read_text().splitlines()
    losses = [float.fromhex(line.split()[1]) for line in recorded]
    assert histories['train/loss']['values'].tolist() == losses


def test_mmengine_loads_weights_through_the_registered_loader(training_server, tmp_path):
    stock = training_server.uninterrupted(hook='CheckpointHook', validate=True, max_epochs=2)
    final = torch.load(stock / 'final_weights.pth')
    model = nn.Module()
    model.layers = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)
    )
    load_checkpoint(model, str(stock / 'epoch_2.pth'))
    assert all(torch.equal(value, final[key]) for key, value in model.state_dict().items())


def test_pretrained_weights_of_an_init_cfg_load(tmp_path):
    source = nn.Linear(3, 2)
    content = {'state_dict': source.state_dict(), 'meta': {'score': np.float64(0.5)}}
    torch.save(content, tmp_path / 'weights.pth')
    checkpoint = str(tmp_path / 'weights.pth')
    model = BaseModule(init_cfg={'type': 'Pretrained', 'checkpoint': checkpoint})
    model.weight, model.bias = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))
    model.init_weights()
    assert torch.equal(model.weight, source.weight)


def test_versions_of_modules_are_kept_beside_the_weights():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    model[0]._version = 2  # as spconv's modules have
    state_dict = model.state_dict()
    loaded = save_and_load({'state_dict': state_dict, 'meta': {'x': np.arange(2)}})['state_dict']
    assert type(loaded) is OrderedDict
    assert loaded._metadata == state_dict._metadata
    assert loaded._metadata['0'] == {'version': 2}


plain_dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness='?'),
    hnp.floating_dtypes(endianness='?', sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness='?', sizes=(64, 128)),
    hnp.unicode_string_dtypes(endianness='?'),
    hnp.byte_string_dtypes(endianness='?'),
)


@repeatable
@given(array=hnp.arrays(plain_dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)))
def test_numpy_arrays_and_scalars_of_plain_data_are_read_exactly(array: np.ndarray):
    for saved in (array, np.asfortranarray(array)):
        loaded = save_and_load({'array': saved})['array']
        assert loaded.dtype.newbyteorder('=') == saved.dtype.newbyteorder('=')
        assert loaded.flags.f_contiguous == saved.flags.f_contiguous
        np.testing.assert_array_equal(loaded, saved)
    if array.size:
        scalar = array.reshape(-1)[0]
        loaded = save_and_load({'scalar': scalar})['scalar']
        assert type(loaded) is type(scalar)
        np.testing.assert_array_equal(loaded, scalar)


def test_arrays_pickled_by_numpy_2_are_read(tmp_path):
    path = tmp_path / 'numpy2.pth'
    torch.save({'array': np.arange(4.0), 'scalar': np.float32(2)}, path)
    edit_pickle(path, b'numpy.core.multiarray', b'numpy._core.multiarray')
    edit_pickle(path, b'numpy._core._core', b'numpy._core')  # where numpy 2 wrote it already
    loaded = load_checkpoint_safely(path)
    assert loaded['array'].tolist() == [0, 1, 2, 3]
    assert loaded['scalar'] == np.float32(2)


def edit_pickle(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes in the pickle of a file of torch.save."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            edited = content.replace(old, new) if name.endswith('data.pkl') else content
            archive.writestr(name, edited)


def test_config_dict_becomes_a_dict():
    loaded = save_and_load({'meta': ConfigDict(a=1, b=dict(c=[2]))})
    assert type(loaded['meta']) is dict
    assert loaded == {'meta': {'a': 1, 'b': {'c': [2]}}}


def test_files_in_the_format_before_torch_1_6_load(tmp_path):
    path = tmp_path / 'old.pth'
    content = {'state_dict': nn.Linear(2, 2).state_dict(), 'meta': {'mAP': np.float64(0.25)}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    loaded = load_checkpoint_safely(path)
    assert loaded['meta'] == {'mAP': 0.25}
    assert torch.equal(loaded['state_dict']['weight'], content['state_dict']['weight'])


def test_classes_that_the_program_allows_load():
    class Note:
        """A class that the restricted unpickler does not know."""

    Note.__qualname__ = 'Note'
    globals()['Note'] = Note
    with pytest.raises(CheckpointError, match='Note'):
        save_and_load({'note': Note()})
    with torch.serialization.safe_globals([Note]):
        assert type(save_and_load({'note': Note()})['note']) is Note


def test_shared_and_cyclic_containers_survive():
    shared = [np.arange(2)]
    content: dict = {'a': shared, 'b': shared, 'tuple': (1, np.float64(2))}
    content['self'] = content
    loaded = save_and_load(content)
    assert loaded['a'] is loaded['b']
    assert loaded['self'] is loaded
    assert loaded['a'][0].tolist() == [0, 1]
    assert loaded['tuple'] == (1, 2.0)


ATTACKS = {
    'os.system': lambda target: Calls(os.system, f'touch {target}'),
    'exec': lambda target: Calls(exec, f'open({str(target)!r}, "w")'),
    'eval': lambda target: Calls(eval, f'open({str(target)!r}, "w")'),
    'open': lambda target: Calls(open, str(target), 'w'),
    'Popen': lambda target: Calls(subprocess.Popen, ['touch', str(target)]),
    'partial': lambda target: Calls(partial, os.mkdir, str(target)),
    'tofile': lambda target: Calls(np.ndarray.tofile, np.zeros(1), str(target)),
    'os.mkdir through getattr': lambda target: Calls(Path(target).mkdir),
}
REFUSED_NAMES = {
    'os.system': 'posix.system',
    'exec': 'call exec',
    'eval': 'call eval',
    'open': 'io.open',
    'Popen': 'Popen',
    'partial': 'functools.partial',
    'tofile': 'getattr',
    'os.mkdir through getattr': 'pathlib.PosixPath',
}


@pytest.mark.parametrize('place', ['top', 'meta', 'state_dict', 'message_hub'])
@pytest.mark.parametrize('attack', ATTACKS)
def test_file_that_would_run_code_is_refused_and_runs_nothing(attack, place, tmp_path):
    target = tmp_path / 'created_by_attack'
    payload = ATTACKS[attack](target)
    contents = {
        'top': payload,
        'meta': {'state_dict': {}, 'meta': {'time': payload}},
        'state_dict': {'state_dict': OrderedDict(weight=payload)},
        'message_hub': {'message_hub': {'log_scalars': {'loss': payload}}},
    }
    path = tmp_path / 'malicious.pth'
    torch.save(contents[place], path)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint_safely(path)
    assert not target.exists()
    assert str(path) in str(refusal.value)
    assert REFUSED_NAMES[attack] in str(refusal.value)
    assert 'Nothing in it was run' in str(refusal.value)


def test_the_attack_of_these_tests_is_real(tmp_path):
    target = tmp_path / 'created_by_attack'
    pickle.loads(pickle.dumps(ATTACKS['exec'](target)))
    assert target.exists()


@pytest.mark.parametrize('entry', ['load_checkpoint', 'http', 'old_format'])
def test_every_way_in_refuses(entry, tmp_path, file_server):
    target, path = tmp_path / 'created_by_attack', file_server.directory / f'{entry}.pth'
    content = {'state_dict': {'weight': ATTACKS['exec'](target)}}
    torch.save(content, path, _use_new_zipfile_serialization=entry != 'old_format')
    address = f'{file_server.address}/{path.name}' if entry == 'http' else str(path)
    with pytest.raises(CheckpointError, match=r'exec'):
        load_checkpoint(nn.Linear(1, 1), address)
    assert not target.exists()


@pytest.mark.parametrize('owner', ['text', HistoryBuffer([1.0], [1]), [1]])
def test_getattr_is_refused_but_for_the_methods_of_history_buffer(owner):
    with pytest.raises(CheckpointError, match='getattr'):
        save_and_load({'name': Calls(getattr, owner, '__class__')})


def test_getattr_stays_inert_even_if_some_library_allowed_the_real_one():
    allowed = torch.serialization.safe_globals([getattr])
    with allowed, pytest.raises(CheckpointError, match='was refused.*getattr'):
        save_and_load({'name': Calls(getattr, 'text', 'upper')})


@pytest.mark.parametrize('content', [{'a': 1}, Calls(os.system, 'true')])
def test_allow_list_of_the_program_is_the_same_afterwards(content):
    with torch.serialization.safe_globals([np.dtype]):
        before = set(torch.serialization.get_safe_globals())
        with contextlib.suppress(CheckpointError):
            save_and_load(content)
        assert set(torch.serialization.get_safe_globals()) == before


def test_other_restrictions_of_torch_stay():
    class Tricky(dict):
        """A dict of a class of its own, whose items torch refuses to set."""

    globals()['Tricky'] = Tricky
    Tricky.__qualname__ = 'Tricky'
    with pytest.raises(CheckpointError, match='Tricky'):
        save_and_load({'tricky': Tricky(a=1)})


@pytest.mark.parametrize(
    ('part', 'message'), [(0, 'is empty'), (0.3, 'truncated'), (0.999, 'truncated')]
)
@pytest.mark.parametrize('new_format', [True, False])
def test_truncated_file_is_named_with_a_remedy(part, message, new_format, tmp_path):
    path = tmp_path / 'epoch_7.pth'
    content = {'state_dict': nn.Linear(50, 50).state_dict(), 'meta': {'epoch': 7}}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    os.truncate(path, int(path.stat().st_size * part))
    with pytest.raises(CheckpointError, match=f'(?s){path}.*{message}.*Remedy'):
        load_checkpoint_safely(path)


@pytest.mark.parametrize(
    'version', ['2.6.0a0+ecf3bae40a.nv25.01', '2.6.0.dev20241120+cu124', '2.6.0rc1', '2.10.0']
)
@pytest.mark.skipif(not safe_loading._has_stand_ins(), reason='torch before 2.6 reads plain data')
def test_prerelease_of_torch_2_6_and_later_ones_read_what_2_6_reads(version, monkeypatch):
    monkeypatch.setattr(torch, '__version__', torch.torch_version.TorchVersion(version))
    assert save_and_load({'w': torch.ones(1), 'mAP': np.float64(0.5)})['mAP'] == 0.5


@pytest.mark.parametrize(
    'content',
    [b'<!DOCTYPE html><html>404</html>', b'version https://git-lfs.github.com/spec/v1\n'],
)
def test_file_that_is_no_checkpoint_is_named(content, tmp_path):
    path = tmp_path / 'download.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='not a checkpoint'):
        load_checkpoint_safely(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"'.*nowhere\.pth' cannot be opened: No such file"):
        load_checkpoint(nn.Linear(1, 1), str(tmp_path / 'nowhere.pth'))


def test_error_that_is_not_the_files_fault_passes_through(tmp_path):
    path = tmp_path / 'good.pth'
    torch.save({'weight': torch.ones(2)}, path)
    with pytest.raises(RuntimeError, match=r'(?i)cuda') as error:
        load_checkpoint_safely(path, map_location='cuda:99')
    assert not isinstance(error.value, CheckpointError)


class FileServer:
    """Serves a folder on this machine and counts requests."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.num_requests = 0
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(directory))

            def do_GET(self) -> None:
                outer.num_requests += 1
                super().do_GET()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.address = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def file_server(tmp_path, monkeypatch) -> Iterator[FileServer]:
    (tmp_path / 'served').mkdir()
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch_home'))
    server = FileServer(tmp_path / 'served')
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_failed_download_names_the_address_and_where_the_file_can_be_put(file_server):
    address = f'{file_server.address}/missing.pth'
    with pytest.raises(CheckpointError, match=f'(?s){address}.*404.*checkpoints/missing.pth'):
        CheckpointLoader.load_checkpoint(address, 'cpu')


def test_address_is_downloaded_once_and_loaded(file_server):
    content = {'state_dict': {'weight': torch.arange(3)}, 'meta': {'mAP': np.float64(0.5)}}
    torch.save(content, file_server.directory / 'model.pth')
    for _ in range(2):
        loaded = CheckpointLoader.load_checkpoint(f'{file_server.address}/model.pth', 'cpu')
        assert loaded['state_dict']['weight'].tolist() == [0, 1, 2]
        assert loaded['meta']['mAP'] == 0.5
    assert file_server.num_requests == 1


@pytest.mark.parametrize(
    ('address', 'file_name'),
    [
        ('torchvision://resnet50', 'resnet50-0676ba61.pth'),
        ('open-mmlab://detectron2/resnet50_caffe', 'resnet50_msra-5891d200.pth'),
        ('mmcls://resnet50', None),
    ],
)
def test_names_of_model_collections_lead_to_the_cached_file(
    address, file_name, tmp_path, monkeypatch
):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'mmengine'))
    cache = tmp_path / 'hub' / 'checkpoints'
    cache.mkdir(parents=True)
    weights = (
        {'backbone.w': torch.ones(1)} if address.startswith('mmcls') else {'w': torch.ones(1)}
    )
    if file_name is None:
        file_name = get_mmcls_models()['resnet50'].rpartition('/')[2]
    torch.save({'state_dict': weights, 'x': np.float64(1)}, cache / file_name)
    loaded = CheckpointLoader.load_checkpoint(address, 'cpu')
    assert torch.equal(loaded['state_dict']['w'], torch.ones(1))


def test_torchvision_that_does_not_load_is_not_needed_for_a_known_name(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError('operator torchvision::nms does not exist')

    monkeypatch.setattr(mmengine.runner.checkpoint, 'get_torchvision_models', broken)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    cached = tmp_path / 'hub' / 'checkpoints' / 'resnet50-0676ba61.pth'
    cached.parent.mkdir(parents=True)
    torch.save({'w': torch.ones(1)}, cached)
    assert CheckpointLoader.load_checkpoint('torchvision://resnet50', 'cpu')['w'] == 1


def test_refused_download_is_named_by_the_file_that_there_is(file_server, tmp_path):
    content = {'state_dict': {'weight': ATTACKS['exec'](tmp_path / 'created_by_attack')}}
    torch.save(content, file_server.directory / 'model.pth')
    address = f'{file_server.address}/model.pth'
    with pytest.raises(CheckpointError) as refusal:
        CheckpointLoader.load_checkpoint(address, 'cpu')
    (named,) = re.findall(r"torch\.load\('(.*?)'", str(refusal.value))
    assert Path(named).is_file()
    assert address in str(refusal.value)


def test_damaged_download_is_to_be_deleted_so_that_it_comes_anew(file_server, tmp_path):
    (file_server.directory / 'model.pth').write_bytes(b'PK\x03\x04 half')
    with pytest.raises(CheckpointError) as damage:
        CheckpointLoader.load_checkpoint(f'{file_server.address}/model.pth', 'cpu')
    (named,) = re.findall(r"delete '(.*?)'", str(damage.value))
    Path(named).unlink()
    torch.save({'state_dict': {'weight': torch.ones(1)}}, file_server.directory / 'model.pth')
    assert CheckpointLoader.load_checkpoint(f'{file_server.address}/model.pth', 'cpu')


@pytest.mark.parametrize('scheme', ['torchvision', 'modelzoo', 'open-mmlab', 'mmcls'])
def test_unknown_model_of_a_collection_is_named_with_those_that_are_like_it(scheme):
    with pytest.raises(CheckpointError, match='has no model of this name.*Remedy.*resnet50'):
        CheckpointLoader.load_checkpoint(f'{scheme}://resnet_50x', 'cpu')
    with pytest.raises(CheckpointError, match='has no model of this name'):
        CheckpointLoader.load_checkpoint(f'{scheme}://nope', 'cpu')


def test_a_file_that_the_caller_has_open_stays_open():
    file = io.BytesIO()
    torch.save({'state_dict': {'weight': torch.ones(2)}}, file)
    file.seek(0)
    load_checkpoint_safely(file)
    assert not file.closed
