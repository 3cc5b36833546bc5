"""On CUDA: flash attention that adds the windows' bias inside, from their geometry, in Triton.

Nothing is stored but the output and its log-sum-exp. Neither pass has atomics or synchronizes with
the host, results are the same bit for bit in every run, and all shapes are known beforehand, so
that a CUDA graph can hold it.
"""

import math
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .geometry import QueryWindows

_MIN_TRITON = (3, 0)
_MAX_HEAD_DIM = 64
_HALF = (torch.float16, torch.bfloat16)


class Tiles(NamedTuple):
    """How a kernel cuts its work.

    Attributes:
        queries: Queries of a tile.
        keys: Keys of a tile.
        warps: Warps of a program.
        stages: Tiles that are loaded ahead.
    """

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Launch:
    """How the kernels are launched.

    Attributes:
        forward: Tiles of the forward pass.
        backward: Tiles of the backward pass.
        programs: Programs that shall run at once. Each head's keys are shared out so that there
            are so many.
        is_sorted: Sort the queries by place.
    """

    forward: Tiles
    backward: Tiles
    programs: int
    is_sorted: bool = True

    @classmethod
    def default(cls, query: Tensor) -> 'Launch':
        """For a tensor on CUDA."""
        device = torch.cuda.get_device_properties(query.device)
        tiles = default_tiles(query.shape[-1], query.dtype, device.major * 10 + device.minor)
        return cls(*tiles, programs=2 * device.multi_processor_count)


def default_tiles(head_dim: int, dtype: torch.dtype, capability: int) -> tuple[Tiles, Tiles]:
    """Tiles of the forward and of the backward pass for which no register is spilled.

    Args:
        head_dim: Channels of a head.
        dtype: Of the queries.
        capability: Compute capability, such as 90 for 9.0. From 9.0 on the tensor cores read
            from shared memory, which leaves registers for larger tiles.
    """
    if dtype not in _HALF:
        if head_dim > 32:
            return Tiles(32, 32, 4, 2), Tiles(16, 16, 4, 1)
        return Tiles(64, 32, 4, 2), Tiles(16, 32, 4, 1)
    if head_dim > 32:
        return Tiles(128, 64, 8, 2), Tiles(64 if capability >= 90 else 32, 64, 8, 2)
    return Tiles(128, 64, 4, 3), Tiles(64 if capability >= 90 else 32, 128, 8, 2)


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
        return f'triton {version} is older than 3.0, which comes with torch 2.4'
    return None


def why_not(
    query: Tensor, key: Tensor, windows: QueryWindows, strength: Tensor | None
) -> str | None:
    """Why the backend cannot run on such tensors; None if it can."""
    if query.device.type != 'cuda':
        return f"it computes on CUDA, not on device type '{query.device.type}'"
    if query.dtype not in (*_HALF, torch.float32):
        return f'it does not compute in {query.dtype}'
    if query.shape[-1] > _MAX_HEAD_DIM:
        return f'heads of {query.shape[-1]} channels do not fit (at most {_MAX_HEAD_DIM})'
    if not (query.numel() and key.numel()):
        return 'the kernels do not take empty tensors'
    capability = torch.cuda.get_device_capability(query.device)
    if capability < (8, 0):
        return f'it needs compute capability 8.0, this device has {".".join(map(str, capability))}'
    return _why_not_here()


class _Problem:
    """What both passes hand to their kernels, for one tiling."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        windows: QueryWindows,
        strength: Tensor | None,
        tiles: Tiles,
        is_sorted: bool,
    ) -> None:
        self.tiles = tiles
        batch, heads, num_queries, self.head_dim = query.shape
        self.heads = batch * heads
        self.query_tiles = -(-num_queries // tiles.queries)
        self.cells = windows.cells.contiguous()
        self.num_segments = self.cells.shape[2]
        # not read where it is None, but the kernels take a pointer
        self.strength = query if strength is None else strength.float().contiguous()
        modalities = [self._modality(windows, number) for number in (0, 1)]
        self.key_tiles = sum(modality['TILES'] for modality in modalities)
        hidden = strength is None
        self.arguments = {
            f'{name}{number}': value
            for number, modality in enumerate(modalities)
            for name, value in modality.items()
        }
        self.arguments |= dict(
            START1=windows.layout.num_lidar_tokens,
            SEGMENTS0=int(windows.layout.bev_shape is not None),
            HIDE=hidden,
            D=self.head_dim,
            DP=max(16, 1 << (self.head_dim - 1).bit_length()),
            BM=tiles.queries,
            BN=tiles.keys,
            PRECISION='tf32' if torch.backends.cuda.matmul.allow_tf32 else 'ieee',
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )
        self._place_queries(windows, num_queries, batch, is_sorted)

    def _modality(self, windows: QueryWindows, number: int) -> dict[str, Any]:
        """The kernels' arguments on the segments of a modality, which all have one shape."""
        kernels = _kernels()
        segments = [part for part in windows.layout.segments if part.modality == number]
        window = windows.shapes[number]
        rows, columns = segments[0][1:3] if segments else (0, 1)
        profile = kernels.UNIFORM if window.sigma is None else kernels.GAUSSIAN
        return dict(
            SIZE=rows * columns,
            COLUMNS=columns,
            RADIUS=window.radius or 0,
            # exp(-d^2 / (2 sigma^2)) = exp2(-falloff d^2)
            FALLOFF=0.0 if window.sigma is None else 0.5 * math.log2(math.e) / window.sigma**2,
            TILES=len(segments) * -(-rows * columns // self.tiles.keys),
            PROFILE=(kernels.WHOLE if window.radius is None else profile).value,
        )

    def _place_queries(
        self, windows: QueryWindows, num_queries: int, batch: int, is_sorted: bool
    ) -> None:
        """Sort the queries by place, and find where those of a tile have their windows."""
        kernels, grid, cells = _kernels(), (self.query_tiles, batch), self.cells
        shape = (batch, self.query_tiles, self.num_segments, 4)
        self.boxes = cells.new_empty(shape)
        if is_sorted:
            self.order = cells.new_empty(batch, num_queries)
            # as many strips of rows as make a tile's queries fill about a square
            rows = windows.layout.segments[0].rows
            strip = -(-rows // max(1, round(self.query_tiles**0.5)))
            kernels.sort_queries[grid](
                cells, self.order, num_queries, self.num_segments, strip, BM=self.tiles.queries
            )
        else:
            numbers = torch.arange(num_queries, dtype=torch.int32, device=cells.device)
            self.order = numbers.expand(batch, -1).contiguous()
        kernels.find_boxes[grid](
            cells, self.order, self.boxes, num_queries, self.num_segments, BM=self.tiles.queries
        )


def _rows(tensor: Tensor) -> Tensor:
    """With the channels of a row beside one another, as the kernels read them."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _empty_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``(B, H, N, D)`` with the heads of a token beside one another."""
    batch, heads, tokens, channels = tensor.shape
    return tensor.new_empty(batch, tokens, heads, channels, dtype=dtype).transpose(1, 2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: QueryWindows,
    strength: Tensor | None,
    scale: float,
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention; arguments and result as in :class:`cmt_bias.ops.operator.Backend`.

    ``launch`` is for measurements and tests. The third result is empty.
    """
    kernels, launch = _kernels(), launch or Launch.default(query)
    query, key, value = (_rows(tensor) for tensor in (query, key, value))
    problem = _Problem(query, key, windows, strength, launch.forward, launch.is_sorted)
    batch, heads, num_queries, channels = query.shape
    output = _empty_like(query)
    logsumexp = query.new_empty(batch, heads, num_queries, dtype=torch.float32)

    grid: tuple[int, ...] = (problem.query_tiles, problem.heads)
    splits = min(problem.key_tiles, -(-launch.programs // math.prod(grid)))
    tiles_of_split = -(-problem.key_tiles // splits)
    splits = -(-problem.key_tiles // tiles_of_split)
    part, part_logsumexp = output.unsqueeze(0), logsumexp
    if splits > 1:
        shape = (splits, batch, heads, num_queries)
        part = query.new_empty(*shape, channels, dtype=torch.float32)
        part_logsumexp = query.new_empty(shape, dtype=torch.float32)
    grid = (*grid, splits)
    kernels.attend[grid](
        query,
        key,
        value,
        problem.cells,
        problem.strength,
        problem.order,
        problem.boxes,
        part,
        part_logsumexp,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        *part.stride()[:4],
        scale,
        heads,
        num_queries,
        problem.num_segments,
        tiles_of_split,
        **problem.arguments,
    )
    if splits > 1:
        sizes = dict(D=channels, DP=problem.arguments['DP'], BM=32)
        kernels.join_splits[-(-num_queries // 32), problem.heads](
            part,
            part_logsumexp,
            output,
            logsumexp,
            *output.stride()[:3],
            heads,
            num_queries,
            SPLITS=splits,
            **sizes,
        )
    return output, logsumexp, query.new_empty(0)


def gradients(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: QueryWindows,
    strength: Tensor | None,
    scale: float,
    output: Tensor,
    logsumexp: Tensor,
    extra: Tensor,
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients; arguments and result as in :class:`cmt_bias.ops.operator.Backend`."""
    kernels, launch = _kernels(), launch or Launch.default(query)
    grad_output, query, key, value, output = (
        _rows(tensor) for tensor in (grad_output, query, key, value, output)
    )
    problem = _Problem(query, key, windows, strength, launch.backward, launch.is_sorted)
    batch, heads, num_queries, channels = query.shape
    padded = problem.query_tiles * problem.tiles.queries
    sizes = dict(D=channels, DP=problem.arguments['DP'], BM=problem.tiles.queries)
    rows = (problem.heads, padded, sizes['DP'])
    queries, grads = query.new_empty(rows), query.new_empty(rows)
    offsets, deltas = (logsumexp.new_empty(problem.heads, padded) for _ in range(2))
    kernels.gather_queries[problem.query_tiles, problem.heads](
        query,
        grad_output,
        output,
        logsumexp,
        problem.order,
        queries,
        grads,
        offsets,
        deltas,
        *query.stride()[:3],
        *grad_output.stride()[:3],
        *output.stride()[:3],
        heads,
        num_queries,
        **sizes,
    )

    grad_query, grad_key, grad_value = (_empty_like(tensor) for tensor in (query, key, value))
    groups = min(problem.key_tiles, -(-launch.programs // problem.heads))
    # Keys outside all windows are not visited where they do not count: then nothing is written.
    new = query.new_zeros if strength is None else query.new_empty
    part_query = new(groups, *rows, dtype=torch.float32)
    shape = (groups if strength is not None else 0, problem.heads, 2, padded)
    part_strength = query.new_zeros(shape, dtype=torch.float32)
    strength_of_heads = query.new_empty(batch, heads, num_queries, 2, dtype=torch.float32)
    kernels.differentiate[groups, problem.heads](
        key,
        value,
        queries,
        grads,
        offsets,
        deltas,
        problem.order,
        problem.boxes,
        problem.cells,
        problem.strength,
        part_query,
        part_strength,
        grad_key,
        grad_value,
        *key.stride()[:3],
        *value.stride()[:3],
        *grad_key.stride()[:3],
        *grad_value.stride()[:3],
        scale,
        heads,
        num_queries,
        problem.num_segments,
        problem.query_tiles,
        **problem.arguments,
    )
    kernels.join_groups[problem.query_tiles, problem.heads](
        part_query,
        part_strength,
        problem.order,
        grad_query,
        strength_of_heads,
        *grad_query.stride()[:3],
        scale,
        heads,
        num_queries,
        GROUPS=groups,
        HIDE=strength is None,
        **sizes,
    )
    grad_strength = None if strength is None else strength_of_heads.sum(1)
    return grad_query, grad_key, grad_value, grad_strength
