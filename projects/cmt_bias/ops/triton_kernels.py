"""Triton kernels of attention to windows; :mod:`.triton_attention` launches them.

The keys are cut into tiles of BN that lie in one segment each, the queries, sorted by place, into
tiles of BM. ``Boxes`` says for each query tile and segment where the middles of its windows lie. A
key tile out of their reach has no bias: it costs what it costs in plain flash attention, or
nothing where keys outside the windows do not count (HIDE). For the others middles and strengths
lie side by side in the order of the queries, since a thread needs those of many.

All tensors are contiguous; those of queries and keys ``(B, N, H, D)``, a query's number counts
through the batch. ``Cells`` is ``(B, Q, S, 2)`` int32, ``Strength`` ``(B, Q, 2)`` float32,
``Order`` ``(B, Q)`` a sample's queries in the order of their places, ``Boxes``
``(B, query tiles, S, 4)`` the lowest and highest row and column, ``Middles``
``(B, S, 2, query tiles * BM)`` rows and columns, ``Strengths`` ``(B, 2, query tiles * BM)`` in
units of ln 2. Names that end in 0 concern the LiDAR, those in 1 the cameras.
"""

import triton
import triton.language as tl

# Numbers that change from step to step (``do_not_specialize``) are no constants, which would have
# the kernels compiled anew in the middle of a training.

_LOG2_E = tl.constexpr(1.4426950408889634)
# Behind all maps, and before them the middle of a window that is in no segment.
_FAR = tl.constexpr(2**20)


@triton.jit
def _queries(Order, batch, tile, NQ, BM: tl.constexpr):
    """The queries of a tile, and which of their positions there are."""
    position = tile * BM + tl.arange(0, BM)
    used = position < NQ
    return batch * NQ + tl.load(Order + batch * NQ + position, mask=used, other=0), used


@triton.jit(do_not_specialize=['NQ'])
def sort_windows(Cells, Strength, Order, Boxes, Middles, Strengths, NQ, S, HIDE: tl.constexpr,
                 BM: tl.constexpr):  # fmt: skip
    """Middles and strengths of a query tile in its order, and where the middles lie."""
    tile, batch, tiles = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    query, used = _queries(Order, batch, tile, NQ, BM)
    position = tile * BM + tl.arange(0, BM)
    for segment in range(S):
        cell = Cells + (query * S + segment) * 2
        row = tl.load(cell, mask=used, other=-_FAR)
        column = tl.load(cell + 1, mask=used, other=0)
        row = tl.minimum(tl.maximum(row, -_FAR), _FAR)
        column = tl.minimum(tl.maximum(column, -_FAR), _FAR)
        plane = Middles + (batch * S + segment) * 2 * tiles * BM + position
        tl.store(plane, row.to(tl.float32))
        tl.store(plane + tiles * BM, column.to(tl.float32))
        seen = row > -_FAR
        box = Boxes + ((batch * tiles + tile) * S + segment) * 4
        tl.store(box, tl.min(tl.where(seen, row, _FAR), 0))
        tl.store(box + 1, tl.max(tl.where(seen, row, -_FAR), 0))
        tl.store(box + 2, tl.min(tl.where(seen, column, _FAR), 0))
        tl.store(box + 3, tl.max(tl.where(seen, column, -_FAR), 0))
    if not HIDE:
        for modality in range(2):
            strength = tl.load(Strength + query * 2 + modality, mask=used, other=0.0)
            plane = Strengths + (batch * 2 + modality) * tiles * BM + position
            tl.store(plane, strength * _LOG2_E)


@triton.jit
def _key_tile(tile, TILES0, SIZE0, COLUMNS0, RADIUS0, FALLOFF0, SIZE1, COLUMNS1, RADIUS1, FALLOFF1,
              BN: tl.constexpr):  # fmt: skip
    """Where a key tile lies: segment, modality, first cell, how many cells there are from it on,
    first token; and its modality's numbers.
    """
    modality = (tile >= TILES0).to(tl.int32)
    size = tl.where(modality == 0, SIZE0, SIZE1)
    tiles_of_segment = tl.cdiv(size, BN)
    number = tile - modality * TILES0
    view = number // tiles_of_segment
    first = (number - view * tiles_of_segment) * BN
    token = modality * SIZE0 + view * size + first
    segment = view + tl.where(TILES0 > 0, modality, 0)
    COLUMNS = tl.where(modality == 0, COLUMNS0, COLUMNS1)
    RADIUS = tl.where(modality == 0, RADIUS0, RADIUS1)
    FALLOFF = tl.where(modality == 0, FALLOFF0, FALLOFF1)
    return segment, modality, first, size - first, token, COLUMNS, RADIUS, FALLOFF


@triton.jit
def _is_near(box, first, COLUMNS, RADIUS, BN: tl.constexpr):
    """Whether a window of the query tile may reach cells ``first`` to ``first + BN - 1``."""
    top, bottom = first // COLUMNS, (first + BN - 1) // COLUMNS
    left = tl.where(top == bottom, first - top * COLUMNS, 0)
    right = tl.where(top == bottom, left + BN - 1, COLUMNS)
    in_rows = (bottom >= tl.load(box) - RADIUS) & (top <= tl.load(box + 1) + RADIUS)
    in_columns = (right >= tl.load(box + 2) - RADIUS) & (left <= tl.load(box + 3) + RADIUS)
    return in_rows & in_columns


@triton.jit
def _gain(Middles, padded, cell, COLUMNS, RADIUS, FALLOFF, GAUSSIAN: tl.constexpr,
          BM: tl.constexpr, AXIS: tl.constexpr):  # fmt: skip
    """The windows' profiles on cells, which run along AXIS; 0 outside.

    ``Middles`` are those of a query tile in a segment, columns ``padded`` behind rows.
    """
    place = tl.arange(0, BM)
    row, column = tl.load(Middles + place), tl.load(Middles + padded + place)
    # exact below 2**20 cells, which why_not() sees to, as all numbers here
    key_row = tl.floor((cell.to(tl.float32) + 0.5) * (1.0 / COLUMNS))
    key_column = cell.to(tl.float32) - key_row * COLUMNS
    down = tl.expand_dims(key_row, 1 - AXIS) - tl.expand_dims(row, AXIS)
    right = tl.expand_dims(key_column, 1 - AXIS) - tl.expand_dims(column, AXIS)
    # 1 inside and 0 outside without a comparison, of which a GPU makes half as many a cycle
    reach = RADIUS + 1.0
    gain = tl.clamp(reach - tl.abs(down), 0.0, 1.0) * tl.clamp(reach - tl.abs(right), 0.0, 1.0)
    if GAUSSIAN:
        gain *= tl.exp2(-FALLOFF * (down * down + right * right))
    return gain


@triton.jit
def _with_bias(logits, Middles, Strengths, padded, cell, left, near, COLUMNS, RADIUS, FALLOFF,
               GAUSSIAN: tl.constexpr, HIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
               AXIS: tl.constexpr):  # fmt: skip
    """Logits in units of ln 2 with the bias; -inf for keys that there are not, or do not count.

    ``Middles`` and ``Strengths`` are those of a query tile in a segment and its modality.
    """
    if near:
        gain = _gain(Middles, padded, cell, COLUMNS, RADIUS, FALLOFF, GAUSSIAN, BM, AXIS)
        if HIDE:
            logits = tl.where(gain > 0.0, logits, -float('inf'))
        else:
            logits += gain * tl.expand_dims(tl.load(Strengths + tl.arange(0, BM)), AXIS)
    live = tl.expand_dims(tl.arange(0, BN) < left, 1 - AXIS)
    return tl.where(live, logits, -float('inf'))


@triton.jit(do_not_specialize=['NQ', 'tiles_of_split'])
def attend(Query, Key, Value, Middles, Strengths, Order, Boxes, Parts, PartSums, scale, H, NQ, NK,
           S, tiles_of_split, TILES, TILES0, SIZE0, COLUMNS0, RADIUS0, FALLOFF0, SIZE1, COLUMNS1,
           RADIUS1, FALLOFF1, GAUSSIAN: tl.constexpr, HIDE: tl.constexpr, D: tl.constexpr,
           DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
           PRECISION: tl.constexpr):  # fmt: skip
    """A query tile of a head attends to the key tiles of one split, by an online softmax."""
    query_tile, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    batch, h = head // H, head % H
    query, used = _queries(Order, batch, query_tile, NQ, BM)
    d, e = tl.arange(0, DP), tl.arange(0, BN)
    some = used[:, None] & (d < D)[None, :]
    q = tl.load(Query + (query * H + h)[:, None] * D + d[None, :], some, 0.0)
    keys = (batch.to(tl.int64) * NK * H + h) * D
    K, V = Key + keys, Value + keys
    boxes = Boxes + (batch * tl.num_programs(0) + query_tile) * S * 4
    padded = tl.num_programs(0) * BM
    total = tl.zeros((BM, DP), tl.float32)
    top = tl.full((BM,), -float('inf'), tl.float32)
    mass = tl.zeros((BM,), tl.float32)
    stop = tl.minimum((split + 1) * tiles_of_split, TILES)
    for tile in range(split * tiles_of_split, stop):
        segment, modality, first, left, token, COLUMNS, RADIUS, FALLOFF = _key_tile(
            tile, TILES0, SIZE0, COLUMNS0, RADIUS0, FALLOFF0, SIZE1, COLUMNS1, RADIUS1, FALLOFF1,
            BN)  # fmt: skip
        near = _is_near(boxes + segment * 4, first, COLUMNS, RADIUS, BN)
        # No branch at run time where all keys count: its loads would not be pipelined.
        if near | (not HIDE):
            live = e < left
            at = (token + e) * H * D
            k = tl.load(K + at[None, :] + d[:, None], live[None, :] & (d < D)[:, None], 0.0)
            logits = tl.dot(q, k, input_precision=PRECISION) * (scale * _LOG2_E)
            if near | (left < BN):
                middles = Middles + (batch * S + segment) * 2 * padded + query_tile * BM
                strengths = Strengths + (batch * 2 + modality) * padded + query_tile * BM
                logits = _with_bias(
                    logits, middles, strengths, padded, first + e, left, near, COLUMNS, RADIUS,
                    FALLOFF, GAUSSIAN, HIDE, BM, BN, 1)  # fmt: skip
            new_top = tl.maximum(top, tl.max(logits, 1))
            shift = new_top
            if HIDE:
                shift = tl.where(new_top == -float('inf'), 0.0, new_top)
            p = tl.exp2(logits - shift[:, None])
            shrink = tl.exp2(top - shift)
            v = tl.load(V + at[:, None] + d[None, :], live[:, None] & (d < D)[None, :], 0.0)
            total = total * shrink[:, None]
            total += tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
            top, mass = new_top, mass * shrink + tl.sum(p, 1)
    # a query without keys gets zeros
    total = total / tl.where(mass == 0.0, 1.0, mass)[:, None]
    row = (split * (tl.num_programs(1) // H) * NQ + query) * H + h
    tl.store(Parts + row.to(tl.int64)[:, None] * D + d[None, :], total, mask=some)
    tl.store(PartSums + row, top / _LOG2_E + tl.log(mass), mask=used)


@triton.jit(do_not_specialize=['N', 'SPLITS'])
def join_splits(Parts, PartSums, Out, LogSumExp, N, SPLITS, D: tl.constexpr, DP: tl.constexpr,
                BM: tl.constexpr):  # fmt: skip
    """Attention to all keys from attention to each split of them; N queries of all heads."""
    row, d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, DP)
    used = row < N
    some = used[:, None] & (d < D)[None, :]
    top = tl.full((BM,), -float('inf'), tl.float32)
    for split in range(SPLITS):
        top = tl.maximum(top, tl.load(PartSums + split * N + row, mask=used, other=0.0))
    top = tl.where(top == -float('inf'), 0.0, top)
    total, mass = tl.zeros((BM, DP), tl.float32), tl.zeros((BM,), tl.float32)
    for split in range(SPLITS):
        part = split * N + row
        share = tl.exp(tl.load(PartSums + part, mask=used, other=0.0) - top)
        at = part.to(tl.int64)[:, None] * D + d[None, :]
        total += tl.load(Parts + at, some, 0.0) * share[:, None]
        mass += share
    total = total / tl.where(mass == 0.0, 1.0, mass)[:, None]
    tl.store(Out + row[:, None] * D + d[None, :], total.to(Out.dtype.element_ty), mask=some)
    tl.store(LogSumExp + row, top + tl.log(mass), mask=used)


@triton.jit(do_not_specialize=['NQ'])
def gather_queries(Query, GradOut, Out, LogSumExp, Order, Queries, Grads, Offsets, Deltas, H, NQ,
                   D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr):  # fmt: skip
    """What the backward pass reads of the queries, in their order and without gaps.

    ``Offsets`` are the log-sum-exps in units of ln 2, infinite for queries that there are not and
    for those without keys; ``Deltas`` the products of outputs and their gradients.
    """
    tile, head = tl.program_id(0), tl.program_id(1)
    query, used = _queries(Order, head // H, tile, NQ, BM)
    row, d = query * H + head % H, tl.arange(0, DP)
    some = used[:, None] & (d < D)[None, :]
    at = row[:, None] * D + d[None, :]
    grad = tl.load(GradOut + at, some, 0.0)
    out = tl.load(Out + at, some, 0.0)
    offset = tl.load(LogSumExp + row, mask=used, other=float('inf')) * _LOG2_E
    offset = tl.where(offset == -float('inf'), float('inf'), offset)
    to = (head * tl.num_programs(0) + tile) * BM + tl.arange(0, BM)
    tl.store(Queries + to[:, None] * DP + d[None, :], tl.load(Query + at, some, 0.0))
    tl.store(Grads + to[:, None] * DP + d[None, :], grad)
    tl.store(Offsets + to, offset)
    tl.store(Deltas + to, tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1))


@triton.jit(do_not_specialize=['NQ', 'query_tiles'])
def differentiate(Key, Value, Queries, Grads, Offsets, Deltas, Middles, Strengths, Boxes,
                  GradQuery, GradStrength, GradKey, GradValue, scale, H, NQ, NK, S, query_tiles,
                  TILES, TILES0, SIZE0, COLUMNS0, RADIUS0, FALLOFF0, SIZE1, COLUMNS1, RADIUS1,
                  FALLOFF1, GAUSSIAN: tl.constexpr, HIDE: tl.constexpr, D: tl.constexpr,
                  DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                  PRECISION: tl.constexpr):  # fmt: skip
    """The gradients of a head from every so many-th key tile.

    Those of queries and strengths are sums over the program's key tiles, in memory of its own.
    """
    group, head, groups = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    batch, h = head // H, head % H
    keys = (batch.to(tl.int64) * NK * H + h) * D
    K, V, DK, DV = Key + keys, Value + keys, GradKey + keys, GradValue + keys
    padded = query_tiles * BM
    own = group * tl.num_programs(1) * padded
    d, e = tl.arange(0, DP), tl.arange(0, BN)
    for tile in range(group, TILES, groups):
        segment, modality, first, left, token, COLUMNS, RADIUS, FALLOFF = _key_tile(
            tile, TILES0, SIZE0, COLUMNS0, RADIUS0, FALLOFF0, SIZE1, COLUMNS1, RADIUS1, FALLOFF1,
            BN)  # fmt: skip
        some_keys = (e < left)[:, None] & (d < D)[None, :]
        at_keys = ((token + e) * H * D)[:, None] + d[None, :]
        k, v = tl.load(K + at_keys, some_keys, 0.0), tl.load(V + at_keys, some_keys, 0.0)
        grad_k, grad_v = tl.zeros((BN, DP), tl.float32), tl.zeros((BN, DP), tl.float32)
        middles = Middles + (batch * S + segment) * 2 * padded
        strengths = Strengths + (batch * 2 + modality) * padded
        for query_tile in range(query_tiles):
            box = Boxes + ((batch * query_tiles + query_tile) * S + segment) * 4
            near = _is_near(box, first, COLUMNS, RADIUS, BN)
            if near | (not HIDE):
                position = (head * query_tiles + query_tile) * BM + tl.arange(0, BM)
                at = position[:, None] * DP + d[None, :]
                q, grad = tl.load(Queries + at), tl.load(Grads + at)
                offset, delta = tl.load(Offsets + position), tl.load(Deltas + position)
                # keys by queries
                logits = tl.dot(k, tl.trans(q), input_precision=PRECISION) * (scale * _LOG2_E)
                if near | (left < BN):
                    logits = _with_bias(
                        logits, middles + query_tile * BM, strengths + query_tile * BM, padded,
                        first + e, left, near, COLUMNS, RADIUS, FALLOFF, GAUSSIAN, HIDE, BM, BN,
                        0)  # fmt: skip
                p = tl.exp2(logits - offset[None, :])
                grad_v += tl.dot(p.to(grad.dtype), grad, input_precision=PRECISION)
                grad_p = tl.dot(v, tl.trans(grad), input_precision=PRECISION)
                grad_logits = p * (grad_p - delta[None, :])
                rounded = grad_logits.to(q.dtype)
                grad_k += tl.dot(rounded, q, input_precision=PRECISION)
                to = GradQuery + own * DP + at
                grad_q = tl.load(to) + tl.dot(tl.trans(rounded), k, input_precision=PRECISION)
                tl.store(to, grad_q)
                if near & (not HIDE):
                    place = query_tile * BM + tl.arange(0, BM)
                    sums = GradStrength + 2 * own + (2 * head + modality) * padded + place
                    # found again rather than kept in registers
                    gain = _gain(middles + query_tile * BM, padded, first + e, COLUMNS, RADIUS,
                                 FALLOFF, GAUSSIAN, BM, 0)  # fmt: skip
                    tl.store(sums, tl.load(sums) + tl.sum(grad_logits * gain, 0))
        grad_k = (grad_k * scale).to(GradKey.dtype.element_ty)
        tl.store(DK + at_keys, grad_k, mask=some_keys)
        tl.store(DV + at_keys, grad_v.to(GradValue.dtype.element_ty), mask=some_keys)
        tl.debug_barrier()  # the next key tile adds to what other threads have stored


@triton.jit(do_not_specialize=['NQ', 'GROUPS'])
def join_groups(Parts, StrengthParts, GradQuery, GradStrength, Order, scale, H, NQ, GROUPS,
                D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr):  # fmt: skip
    """Gradients of queries, and of strengths by head, from those of all programs."""
    tile, head = tl.program_id(0), tl.program_id(1)
    query, used = _queries(Order, head // H, tile, NQ, BM)
    place, d = tile * BM + tl.arange(0, BM), tl.arange(0, DP)
    padded, heads = tl.num_programs(0) * BM, tl.num_programs(1)
    total = tl.zeros((BM, DP), tl.float32)
    lidar, camera = tl.zeros((BM,), tl.float32), tl.zeros((BM,), tl.float32)
    for group in range(GROUPS):
        first = (group * heads + head) * padded
        total += tl.load(Parts + (first + place)[:, None] * DP + d[None, :])
        lidar += tl.load(StrengthParts + 2 * first + place)
        camera += tl.load(StrengthParts + 2 * first + padded + place)
    row = (query * H + head % H)[:, None]
    some = used[:, None] & (d < D)[None, :]
    total = (total * scale).to(GradQuery.dtype.element_ty)
    tl.store(GradQuery + row * D + d[None, :], total, mask=some)
    of_strength = GradStrength + (query * H + head % H) * 2
    tl.store(of_strength, lidar, mask=used)
    tl.store(of_strength + 1, camera, mask=used)
