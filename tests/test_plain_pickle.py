"""Reading pickles of plain data: numpy's arrays come back equal, and no code runs."""

import builtins
import json
import os
import pickle
import random
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cmt_bias.plain_pickle import InfoFileError, load_info_file

PLAIN_DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness='?'),
    hnp.floating_dtypes(endianness='?', sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness='?', sizes=(64, 128)),
    hnp.unicode_string_dtypes(endianness='?'),
    hnp.byte_string_dtypes(endianness='?'),
)
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(content: bytes, folder: Path) -> Any:
    (folder / 'infos.pkl').write_bytes(content)
    return load_info_file(folder / 'infos.pkl')


class Calls:
    """Pickles as a call: unpickling it without restriction runs the function."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@given(
    array=hnp.arrays(PLAIN_DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)),
    protocol=st.sampled_from(PROTOCOLS),
)
def test_arrays_and_scalars_come_back_equal(array, protocol, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    scalar = array.reshape(-1)[:1].tolist() and array.reshape(-1)[0]
    saved = {'rows': array, 'columns': np.asfortranarray(array), 'scalar': scalar}
    loaded = read(pickle.dumps(saved, protocol), folder)
    for name in ('rows', 'columns'):
        np.testing.assert_array_equal(loaded[name], saved[name])
        assert loaded[name].dtype.newbyteorder('=') == array.dtype.newbyteorder('=')
        assert loaded[name].flags.f_contiguous == saved[name].flags.f_contiguous
    assert type(loaded['scalar']) is type(scalar)
    np.testing.assert_array_equal(loaded['scalar'], scalar)


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_containers_of_info_files_come_back_equal(protocol, tmp_path):
    ragged = np.array([[1], 'a', None], dtype=object)
    infos = {
        'metainfo': OrderedDict(version='v1.0-mini', categories={'car': 0}),
        'data_list': [{'token': 'é', 'shape': (900, 1600), 'raw': b'\xff', 'tags': {1, 2}}, None],
    }
    loaded = read(pickle.dumps({'infos': infos, 'ragged': ragged}, protocol), tmp_path)
    assert loaded['infos'] == infos
    assert loaded['ragged'].tolist() == [[1], 'a', None]


def test_loaded_array_is_pickled_as_the_ordinary_one_that_it_was(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    loaded = read(pickle.dumps(array, 2), tmp_path)
    assert pickle.dumps(loaded, 2) == pickle.dumps(array, 2)
    assert type(pickle.loads(pickle.dumps(loaded))) is np.ndarray


def test_json_is_read_too(tmp_path):
    (tmp_path / 'infos.json').write_text(json.dumps({'data_list': [1.5]}))
    assert load_info_file(tmp_path / 'infos.json') == {'data_list': [1.5]}


ATTACKS = {
    'os.system': lambda target: Calls(os.system, f'touch {target}'),
    'eval': lambda target: Calls(eval, f'open({str(target)!r}, "w")'),
    'a class': lambda target: Calls(builtins.open, str(target), 'w'),
    'a method of an array': lambda target: Calls(np.ndarray.tofile, np.zeros(1), str(target)),
    'a method by getattr': lambda target: Calls(getattr(Path(target), 'touch')),  # noqa: B009
    'loading another file': lambda target: Calls(np.load, str(target), None, True),
    'codecs': lambda target: Calls(__import__('_codecs').encode, 'abc', 'rot13'),
}


@pytest.mark.parametrize('attack', ATTACKS)
@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_file_that_would_run_code_is_refused_and_runs_nothing(attack, protocol, tmp_path):
    target = tmp_path / 'created_by_attack'
    infos = {'metainfo': {}, 'data_list': [{'token': ATTACKS[attack](target)}]}
    with pytest.raises(InfoFileError, match=r'infos\.pkl.*Nothing in it was run.*Remedy'):
        read(pickle.dumps(infos, protocol), tmp_path)
    assert not target.exists()


def test_dtype_that_lies_about_objects_in_its_fields_is_refused(tmp_path):
    class LyingDtype:
        def __reduce__(self) -> tuple:
            fields = {'a': (np.dtype('O'), 0)}
            return np.dtype, ('V8',), (3, '|', None, ('a',), fields, 8, 8, 0)

    class LyingArray:
        def __reduce__(self) -> tuple:
            begin = np.core.multiarray._reconstruct, (np.ndarray, (0,), b'b')
            return (*begin, (1, (1,), LyingDtype(), False, b'\x41' * 8))

    with pytest.raises(InfoFileError, match='not one of plain data'):
        read(pickle.dumps(LyingArray()), tmp_path)


def test_array_that_lies_about_its_size_is_refused(tmp_path):
    honest = pickle.dumps(np.zeros(3, np.uint8), 2)
    for shape in (b'K\x7f', b'J\xff\xff\xff\xff', b'J\xff\xff\xff\x7f'):
        with pytest.raises(InfoFileError):
            read(honest.replace(b'K\x03', shape), tmp_path)


def test_damaged_file_gives_one_kind_of_error(tmp_path):
    content = pickle.dumps({'data_list': [{'token': 'a', 'points': np.arange(5)}] * 3}, 2)
    numbers = random.Random(1)
    for _ in range(90):
        damaged = bytearray(content)
        damaged[numbers.randrange(len(damaged))] ^= 1 << numbers.randrange(8)
        for case in (bytes(damaged), content[: numbers.randrange(len(content))]):
            try:
                read(case, tmp_path)
            except InfoFileError as error:
                assert 'infos.pkl' in str(error)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pkl'):
        load_info_file(tmp_path / 'nowhere.pkl')
