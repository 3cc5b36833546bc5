"""The way of the scale from the config to a logit is the one that docs/design.md tells."""

import importlib
import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import cmt_bias

from .golden_head import build_biased, run

PACKAGE = Path(cmt_bias.__file__).parent
DESIGN = Path(__file__).parents[2] / 'docs' / 'design.md'
WALK = re.findall(r'^\d+\. `([\w.]+)` in `([\w/]+)\.py`', DESIGN.read_text(), re.MULTILINE)
FIRST_OF_FORWARD = 3


def code_of(name: str, file: str) -> types.CodeType:
    """Of a function that a file of the package defines."""
    found = importlib.import_module(f'cmt_bias.{file.replace("/", ".")}')
    for part in name.split('.'):
        found = getattr(found, part)
    code = found.__code__
    assert Path(code.co_filename) == PACKAGE / f'{file}.py'
    return code


@contextmanager
def at_each_call(look: Callable[[types.FrameType], None]) -> Iterator[None]:
    """Look at the frame of each call of Python code."""
    sys.setprofile(lambda frame, event, _: look(frame) if event == 'call' else None)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.fixture(scope='module')
def calls() -> tuple[list[types.CodeType], list[types.CodeType]]:
    """Calls of the walk, each after the one before, and the public ones on the stack at its end.

    Where there is no compiled kernel, the last has been called before, for the weight generator.
    """
    walk = [code_of(*step) for step in WALK]
    called: list[types.CodeType] = []
    stack: list[types.CodeType] = []

    def look(frame: types.FrameType) -> None:
        if len(called) == len(walk) or frame.f_code is not walk[len(called)]:
            return
        called.append(frame.f_code)
        if len(called) == len(walk):
            while frame is not None:
                code = frame.f_code
                if code.co_filename.startswith(str(PACKAGE)) and not code.co_name.startswith('_'):
                    stack.insert(0, code)
                frame = frame.f_back

    with at_each_call(look):
        head = build_biased(scale_granularity='layer_modality', learnable_scale=True)
        for layer in head.transformer.decoder.layers:
            layer.cross_attention.bias_backend = 'dense'
        with torch.no_grad():
            run(head, training=False)
    return called, stack


def test_it_is_at_most_twelve_calls_through_six_files():
    assert len(WALK) <= 12
    assert len({file for _, file in WALK}) <= 6


def test_the_calls_come_in_this_order(calls):
    called, _ = calls
    assert called == [code_of(*step) for step in WALK], f'{WALK[len(called)]} is not called'


def test_no_call_between_the_head_and_the_logit_is_left_out(calls):
    _, stack = calls
    walk = [code_of(*step) for step in WALK]
    below = stack[stack.index(walk[FIRST_OF_FORWARD]) :]
    aside = walk[FIRST_OF_FORWARD + 1 : FIRST_OF_FORWARD + 3]  # return before the transformer runs
    assert below == [code for code in walk[FIRST_OF_FORWARD:] if code not in aside]


@pytest.mark.parametrize('page', ['README.md', 'README.zh-CN.md'])
def test_the_readmes_name_its_files(page):
    text = (DESIGN.parents[1] / page).read_text()
    (told,) = re.findall(r'design\.md#from-the-config-to-a-logit\).*?\n\n', text, re.DOTALL)
    for file in {file for _, file in WALK}:
        folder, name = file.split('/')
        assert f'`{folder}/`' in told and f'`{name}`' in told
