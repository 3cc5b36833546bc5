"""On CUDA: flash attention that adds the windows' bias inside, from their geometry, in Triton.

Nothing is stored but the output and its log-sum-exp. Neither pass has atomics or synchronizes with
the host, results are the same bit for bit in every run, and all shapes are known beforehand, so
that a CUDA graph can hold it.
"""

import math
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .geometry import AttentionInputs

# 3.2 and 3.3 crash while they compile these kernels; older ones load nothing ahead.
_MIN_TRITON = (3, 4)
_MAX_HEAD_DIM = 64
# Cells of a map whose rows the kernels find exactly by a product in float32.
_MAX_MAP = 2**20
_HALF = (torch.float16, torch.bfloat16)


class Tiles(NamedTuple):
    """How a kernel cuts its work: queries and keys of a tile, warps, and tiles loaded ahead."""

    queries: int
    keys: int
    warps: int
    stages: int


class Launch(NamedTuple):
    """How the kernels of the forward and the backward pass are launched.

    A head's keys are shared out among the programs: many that take turns in the forward pass; in
    the backward pass, where each has gradients of all queries to itself, no more than can run at
    once.
    """

    forward: Tiles
    backward: Tiles
    programs: tuple[int, int]

    @classmethod
    def default(cls, query: Tensor) -> 'Launch':
        """For a tensor on CUDA."""
        device = torch.cuda.get_device_properties(query.device)
        tiles = default_tiles(query.shape[-1], query.dtype, device.major * 10 + device.minor)
        processors = device.multi_processor_count
        # Eight warps of a backward pass fill the registers of a processor.
        resident = 8 // tiles[1].warps * processors
        return cls(*tiles, programs=(12 * processors, resident))


def default_tiles(head_dim: int, dtype: torch.dtype, capability: int) -> tuple[Tiles, Tiles]:
    """Tiles of the forward and of the backward pass that spill no register on 8.0 and 9.0.

    Args:
        head_dim: Channels of a head.
        dtype: Of the queries.
        capability: Compute capability, such as 90 for 9.0. Tensor cores of 9.x read from shared
            memory, which leaves registers for larger tiles.
    """
    is_hopper = capability // 10 == 9
    if dtype not in _HALF:
        if head_dim > 32:
            return Tiles(16, 32, 4, 2), Tiles(16, 16, 4, 1)
        return Tiles(32, 32, 4, 2), Tiles(16, 32, 4, 1)
    if head_dim > 32:
        return Tiles(128, 64, 8, 2), Tiles(64, 64, 8, 2) if is_hopper else Tiles(32, 32, 8, 2)
    return Tiles(128, 64, 4, 3), Tiles(64, 64, 4, 3) if is_hopper else Tiles(32, 64, 4, 2)


@cache
def _kernels() -> Any:
    return import_module('.triton_kernels', __package__)


@cache
def _why_not_here() -> str | None:
    """Why the kernels cannot be compiled in this installation."""
    if find_spec('triton') is None:
        return 'triton is not installed (it comes with torch for CUDA on Linux)'
    version = import_module('triton').__version__
    if tuple(int(part) for part in version.split('.')[:2]) < _MIN_TRITON:
        return f'triton {version} is older than 3.4, which comes with torch 2.8'
    return None


def why_not(inputs: AttentionInputs) -> str | None:
    """Why the backend cannot run on such tensors; None if it can."""
    query = inputs.query
    if query.device.type != 'cuda':
        return f"it computes on CUDA, not on device type '{query.device.type}'"
    if query.dtype not in (*_HALF, torch.float32):
        return f'it does not compute in {query.dtype}'
    if query.shape[-1] > _MAX_HEAD_DIM:
        return f'heads of {query.shape[-1]} channels do not fit (at most {_MAX_HEAD_DIM})'
    if not query.numel():
        return 'the kernels do not take empty tensors'
    rows, columns, _, view_rows, view_columns, *_ = inputs.sizes
    largest = max(rows * columns, view_rows * view_columns)
    if largest >= _MAX_MAP:
        return f'a map of {largest} cells is too large (less than {_MAX_MAP})'
    capability = torch.cuda.get_device_capability(query.device)
    if capability < (8, 0):
        return f'it needs compute capability 8.0, this device has {".".join(map(str, capability))}'
    return _why_not_here()


def _uses_tf32() -> bool:
    """Whether torch's own products of float32 matrices use TF32."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, 'fp32_precision'):  # the older switch raises once this one was set
        return matmul.fp32_precision == 'tf32'
    return matmul.allow_tf32  # torch < 2.9


def kernel_arguments(inputs: AttentionInputs, tiles: Tiles) -> dict[str, Any]:
    """What both passes hand to their kernels, the queries' order and boxes among it."""
    kernels, (batch, queries, heads, channels) = _kernels(), inputs.query.shape
    cells, segments, order = inputs.cells, inputs.cells.shape[2], inputs.order
    if order is None:
        order = torch.arange(queries, out=cells.new_empty(queries)).repeat(batch, 1)
    grid = (-(-queries // tiles.queries), batch)
    padded = grid[0] * tiles.queries
    boxes = cells.new_empty(*grid[::-1], segments, 4)
    middles = cells.new_empty(batch, segments, 2, padded, dtype=torch.float32)
    hides = inputs.strength is None
    # neither read nor written where there is none, but the kernels take pointers
    strength = cells if inputs.strength is None else inputs.strength
    strengths = strength.new_empty(batch, 2, padded)
    found = boxes, middles, strengths
    kernels.sort_windows[grid](
        cells, strength, order, *found, queries, segments, HIDE=hides, BM=tiles.queries
    )
    arguments: dict[str, Any] = dict(
        Middles=middles,
        Strengths=strengths,
        Order=order,
        Boxes=boxes,
        scale=inputs.scale,
        H=heads,
        NQ=queries,
        NK=inputs.key.shape[1],
        S=segments,
        TILES=0,
        GAUSSIAN=not hides and any(inputs.sigmas),
        HIDE=hides,
        D=channels,
        DP=max(16, 1 << (channels - 1).bit_length()),
        BM=tiles.queries,
        BN=tiles.keys,
        PRECISION='tf32' if _uses_tf32() else 'ieee',
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    rows, columns, views, view_rows, view_columns, *radii = inputs.sizes
    maps = ((1, rows * columns, columns), (views, view_rows * view_columns, view_columns))
    for number, (count, size, width) in enumerate(maps):
        # exp(-d^2 / (2 sigma^2)) = exp2(-falloff d^2)
        sigma = inputs.sigmas[number] or math.inf
        arguments |= {
            f'SIZE{number}': size,
            f'COLUMNS{number}': width,
            f'RADIUS{number}': radii[number],
            f'FALLOFF{number}': 0.5 * math.log2(math.e) / sigma**2,
        }
        arguments['TILES'] += count * -(-size // tiles.keys)
        arguments.setdefault('TILES0', arguments['TILES'])
    return arguments


def attend(inputs: AttentionInputs, launch: Launch | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Attention, as operator.py says; ``launch`` is for measurements and tests."""
    kernels, query = _kernels(), inputs.query
    launch = launch or Launch.default(query)
    batch, queries, heads, channels = query.shape
    arguments = kernel_arguments(inputs, launch.forward)
    grid = -(-queries // launch.forward.queries), batch * heads
    tiles_of_split = -(-arguments['TILES'] // -(-launch.programs[0] // math.prod(grid)))
    splits = -(-arguments['TILES'] // tiles_of_split)
    parts = query.new_empty(splits, *query.shape, dtype=torch.float32)
    part_sums = parts.new_empty(parts.shape[:-1])
    outputs = dict(Parts=parts, PartSums=part_sums, tiles_of_split=tiles_of_split)
    kernels.attend[grid[0], grid[1], splits](*inputs[:3], **outputs, **arguments)
    output, logsumexp = torch.empty_like(query), parts.new_empty(query.shape[:-1])
    rows = logsumexp.numel()
    sizes = dict(D=channels, DP=arguments['DP'], BM=32)
    kernels.join_splits[(-(-rows // 32),)](
        parts, part_sums, output, logsumexp, rows, splits, **sizes
    )
    return output, logsumexp, logsumexp.new_empty(query.shape[:2], dtype=torch.bool)


def gradients(
    inputs: AttentionInputs,
    grad_output: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    chosen: Tensor,
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients, as operator.py says."""
    kernels, (query, key, value, *_) = _kernels(), inputs
    launch = launch or Launch.default(query)
    batch, queries, heads, _ = query.shape
    arguments = kernel_arguments(inputs, launch.backward)
    shared = {name: arguments[name] for name in ('H', 'NQ', 'D', 'DP', 'BM')}
    shared['Order'] = arguments.pop('Order')
    query_tiles, all_heads = -(-queries // launch.backward.queries), batch * heads
    padded = all_heads, query_tiles * launch.backward.queries
    gathered = dict(
        Queries=query.new_empty(*padded, arguments['DP']),
        Grads=query.new_empty(*padded, arguments['DP']),
        Offsets=logsumexp.new_empty(padded),
        Deltas=logsumexp.new_empty(padded),
    )
    results = grad_output, output, logsumexp
    kernels.gather_queries[query_tiles, all_heads](query, *results, **gathered, **shared)
    groups = min(arguments['TILES'], max(1, launch.programs[1] // all_heads))
    of_query = query.new_zeros(groups, *gathered['Queries'].shape, dtype=torch.float32)
    of_strength = query.new_zeros(groups, padded[0], 2, padded[1], dtype=torch.float32)
    grad_key, grad_value = torch.empty_like(key), torch.empty_like(value)
    grads = dict(
        GradQuery=of_query, GradStrength=of_strength, GradKey=grad_key, GradValue=grad_value
    )
    kernels.differentiate[groups, all_heads](
        key, value, query_tiles=query_tiles, **grads, **gathered, **arguments
    )
    grad_query = torch.empty_like(query)
    strength_of_heads = query.new_empty(batch, queries, heads, 2, dtype=torch.float32)
    joined = of_query, of_strength, grad_query, strength_of_heads
    kernels.join_groups[query_tiles, all_heads](
        *joined, GROUPS=groups, scale=inputs.scale, **shared
    )
    return grad_query, grad_key, grad_value, strength_of_heads.sum(2)
