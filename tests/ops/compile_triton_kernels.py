"""Compile the Triton kernels without a GPU and print the registers they need, as JSON."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ['TRITON_INTERPRET'] = '0'

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cmt_bias.ops import triton_attention, triton_kernels

CAPABILITIES = (80, 90)
# Channels of a head and whether keys outside the windows are hidden: decoder and router of CMT.
USES = {
    'bias': (32, False),
    'bias of wide heads': (64, False),
    'windows alone': (64, True),
}
_INPUTS = ('Query', 'Key', 'Value', 'Queries', 'Grads', 'GradKey', 'GradValue')
_ALL = (
    *('sort_windows', 'attend', 'join_splits', 'gather_queries', 'differentiate', 'join_groups'),
)
_INTEGERS = ('Cells', 'Order', 'Boxes')


def type_of(name: str, constants: dict[str, object], precision: str) -> str:
    """The type of a kernel's argument: capitalized words are pointers, all else are numbers."""
    if name in constants:
        return 'constexpr'
    if re.fullmatch('[A-Z][A-Za-z]*[a-z]', name):
        numbers = precision if name in _INPUTS else 'i32' if name in _INTEGERS else 'fp32'
        return f'*{numbers}'
    return 'fp32' if name == 'scale' or name.startswith('FALLOFF') else 'i32'


def compiled(
    kernel: triton.JITFunction,
    tiles: triton_attention.Tiles,
    capability: int,
    head_dim: int,
    hide: bool = False,
    smallest: bool = False,
) -> triton.compiler.CompiledKernel:
    """A kernel for half precision and windows that are not Gaussian.

    ``smallest``: in float32 for Gaussian ones, and all that can be counted is 1 (heads, queries,
    columns and so on), of which Triton makes constants.
    """
    constants = dict(
        GAUSSIAN=smallest, HIDE=hide, D=head_dim, DP=head_dim, BM=tiles.queries, BN=tiles.keys,
        PRECISION='tf32' if smallest else 'ieee',
    )  # fmt: skip
    precision = 'fp32' if smallest else 'bf16'
    types = {name: type_of(name, constants, precision) for name in kernel.arg_names}
    if smallest:
        constants |= {name: 1 for name, kind in types.items() if kind == 'i32'}
        types = {name: type_of(name, constants, precision) for name in types}
    constants = {name: value for name, value in constants.items() if name in types}
    aligned = [index for index, kind in enumerate(types.values()) if kind.startswith('*')]
    return triton.compile(
        ASTSource(
            fn=kernel,
            signature=types,
            constexprs=constants,
            attrs={(index,): [['tt.divisibility', 16]] for index in aligned},
        ),
        target=GPUTarget('cuda', capability, 32),
        options=dict(num_warps=tiles.warps, num_stages=tiles.stages),
    )


def usage(kernel: triton.compiler.CompiledKernel) -> dict[str, int]:
    """Registers of a thread, bytes of its stack, where spilled registers are, and instructions."""
    tools = Path(triton.__file__).parent / 'backends/nvidia/bin'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(kernel.asm['cubin'])
        file.flush()
        commands = [tools / 'cuobjdump', '--dump-resource-usage'], [tools / 'nvdisasm', '-c']
        resources, code = (
            subprocess.run(
                [*command, file.name], capture_output=True, text=True, check=True
            ).stdout
            for command in commands
        )
    found = dict(re.findall(r'(REG|STACK):(\d+)', resources))
    instructions = len(re.findall(r'^\s+/\*[0-9a-f]{4,}\*/ ', code, re.MULTILINE))
    return dict(
        registers=int(found['REG']), spilled=int(found['STACK']), instructions=instructions
    )


def main() -> None:
    """Print what the large kernels need; compile all with the smallest numbers."""
    found = {}
    for capability in CAPABILITIES:
        for use, (head_dim, hide) in USES.items():
            tiles = triton_attention.default_tiles(head_dim, torch.bfloat16, capability)
            kernels = (triton_kernels.attend, triton_kernels.differentiate)
            for kernel, its_tiles in zip(kernels, tiles, strict=True):
                name = f'{kernel.__name__} {use} {capability} {its_tiles}'
                found[name] = usage(compiled(kernel, its_tiles, capability, head_dim, hide))
        tiles = triton_attention.default_tiles(32, torch.float32, capability)
        for name in _ALL:
            its_tiles = tiles[name == 'differentiate']
            compiled(getattr(triton_kernels, name), its_tiles, capability, 32, smallest=True)
    sys.stdout.write(json.dumps(found))


if __name__ == '__main__':
    main()
