"""The Triton kernels of `pool_norm_triton`.

Maps are channels-last, so a block is some windows (2×2 places of x, one of the pooled map) by up to
128 neighbouring channels, and a thread reads 16 bytes of channels; everything is float32 once
loaded. Programs that sum store partial sums in memory and another kernel adds them up: there are no
atomics, so results are reproducible bit for bit.

Kernels are not specialised on what changes between batches or layers: they would be compiled again
for the last, smaller batch. Only `channels` decides how memory is aligned.
"""

# Triton has no types to check against, and parses these functions itself.
# mypy: disable-error-code="no-untyped-def,import-untyped,import-not-found,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["windows", "tiles", "height", "width"])
def pool(
    x,
    pooled,
    places,
    parts,
    windows,
    tiles,
    height,
    width,
    channels,
    BLOCK_WINDOWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Pool `tiles` blocks of windows; store their mean and sum of squared deviations from it.

    Sums are of differences from the program's first maximum: those of the values themselves would
    cancel if the mean is large compared with the spread.
    """
    part, channel = _share(channels, BLOCK_CHANNELS)
    real = channel < channels
    first = part * tiles * BLOCK_WINDOWS
    below = width * channels
    first_corner = _corner(first, height, width) * channels + channel
    shift, _ = _maximum(x, first_corner, real, channels, below)

    total = tl.zeros((BLOCK_WINDOWS, BLOCK_CHANNELS), tl.float32)
    squares = tl.zeros((BLOCK_WINDOWS, BLOCK_CHANNELS), tl.float32)
    for tile in range(tiles):
        window = first + tile * BLOCK_WINDOWS + tl.arange(0, BLOCK_WINDOWS)
        inside = (window < windows)[:, None]
        mask = inside & real[None, :]
        corner = _corner(window, height, width)[:, None] * channels + channel[None, :]
        largest, place = _maximum(x, corner, mask, channels, below)
        at = window.to(tl.int64)[:, None] * channels + channel[None, :]
        tl.store(pooled + at, largest.to(pooled.dtype.element_ty), mask)
        tl.store(places + at, place.to(tl.uint8), mask)
        difference = tl.where(inside, largest - shift[None, :], 0.0)
        total += difference
        squares += difference * difference

    part_windows = tiles * BLOCK_WINDOWS
    values = tl.minimum(part_windows, windows - first).to(tl.float32)
    offset = tl.sum(total, 0) / values
    square = tl.sum(squares, 0) - values * offset * offset
    count = tl.cdiv(windows, part_windows)
    _store_part(parts, part, count, shift + offset, square, channel, channels)


@triton.jit(do_not_specialize=["windows", "part_windows"])
def statistics(
    parts,
    running_mean,
    running_var,
    stats,
    windows,
    part_windows,
    channels,
    momentum,
    eps,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Mean and 1 / √(variance + eps) of a few channels from all parts; update the running ones.

    A part has `part_windows` windows, the last one fewer. They are combined as in Chan, Golub and
    LeVeque 1983, "Algorithms for computing the sample variance".
    """
    part_mean, part_square, part, channel, mask = _load_parts(
        parts, tl.cdiv(windows, part_windows), channels, BLOCK_PARTS, BLOCK_CHANNELS
    )
    real = channel < channels
    count = tl.minimum(part_windows, windows - part * part_windows).to(tl.float32)[:, None]
    mean = tl.sum(tl.where(mask, part_mean * count, 0.0), 0) / windows
    difference = part_mean - mean[None, :]
    square = tl.sum(tl.where(mask, part_square + count * difference * difference, 0.0), 0)
    # Rounding may leave a channel of equal values a little below 0.
    square = tl.where(square < 0, 0.0, square)
    tl.store(stats + channel, mean, real)
    tl.store(stats + channels + channel, 1.0 / tl.sqrt_rn(square / windows + eps), real)
    _move(running_mean + channel, mean, momentum, real)
    _move(running_var + channel, square / (windows - 1), momentum, real)


@triton.jit(do_not_specialize=["windows"])
def norm_act(
    pooled,
    out,
    stats,
    weight,
    bias,
    windows,
    channels,
    ACTIVATION: tl.constexpr,
    BLOCK_WINDOWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Normalise a block of the pooled map and activate it."""
    block, channel = _share(channels, BLOCK_CHANNELS)
    real = channel < channels
    mean, invstd, scale, shift = _load_channels(stats, weight, bias, channel, channels)
    window = block * BLOCK_WINDOWS + tl.arange(0, BLOCK_WINDOWS)
    mask = (window < windows)[:, None] & real[None, :]
    at = window.to(tl.int64)[:, None] * channels + channel[None, :]
    z = (_load(pooled, at, mask) - mean) * invstd * scale + shift
    # NaN is not ≤ 0 and passes through, as in torch.
    z = tl.where(z <= 0, 0.0, z) if ACTIVATION == "relu" else z * _normal_cdf(z)
    tl.store(out + at, z.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["windows", "tiles"])
def grad_parts(
    grad,
    pooled,
    stats,
    weight,
    bias,
    parts,
    windows,
    tiles,
    channels,
    ACTIVATION: tl.constexpr,
    BLOCK_WINDOWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Parts of the gradients of weight and bias: sums of dz · x̂ and of dz over `tiles` blocks."""
    part, channel = _share(channels, BLOCK_CHANNELS)
    real = channel < channels
    mean, invstd, scale, shift = _load_channels(stats, weight, bias, channel, channels)
    of_weight = tl.zeros((BLOCK_WINDOWS, BLOCK_CHANNELS), tl.float32)
    of_bias = tl.zeros((BLOCK_WINDOWS, BLOCK_CHANNELS), tl.float32)
    for tile in range(tiles):
        window = (part * tiles + tile) * BLOCK_WINDOWS + tl.arange(0, BLOCK_WINDOWS)
        mask = (window < windows)[:, None] & real[None, :]
        at = window.to(tl.int64)[:, None] * channels + channel[None, :]
        xhat = (_load(pooled, at, mask) - mean) * invstd
        grad_z = _grad_z(_load(grad, at, mask), xhat * scale + shift, ACTIVATION)
        of_weight += tl.where(mask, grad_z * xhat, 0.0)
        of_bias += tl.where(mask, grad_z, 0.0)
    count = tl.cdiv(windows, tiles * BLOCK_WINDOWS)
    _store_part(parts, part, count, tl.sum(of_weight, 0), tl.sum(of_bias, 0), channel, channels)


@triton.jit(do_not_specialize=["count"])
def sums(parts, total, count, channels, BLOCK_PARTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """Both sums over `count` parts, for a few channels."""
    first, second, _, channel, _ = _load_parts(parts, count, channels, BLOCK_PARTS, BLOCK_CHANNELS)
    tl.store(total + channel, tl.sum(first, 0), channel < channels)
    tl.store(total + channels + channel, tl.sum(second, 0), channel < channels)


@triton.jit(do_not_specialize=["cells", "windows", "height", "width"])
def grad_input(
    grad,
    pooled,
    places,
    stats,
    weight,
    bias,
    total,
    grad_x,
    cells,
    windows,
    height,
    width,
    channels,
    ACTIVATION: tl.constexpr,
    BLOCK_WINDOWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Write the gradient of x, each place once; `total` are the gradients of weight and bias.

    A cell is a window, or the rest of one at the edge of an odd size: no maximum, so zeros.
    """
    block, channel = _share(channels, BLOCK_CHANNELS)
    real = channel < channels
    cell = block * BLOCK_WINDOWS + tl.arange(0, BLOCK_WINDOWS)
    inside = cell < cells
    row = cell // tl.cdiv(width, 2)
    column = cell - row * tl.cdiv(width, 2)
    image = row // tl.cdiv(height, 2)
    row -= image * tl.cdiv(height, 2)

    whole = inside & (row < height // 2) & (column < width // 2)
    mask = whole[:, None] & real[None, :]
    window = (image * (height // 2) + row) * (width // 2) + column
    at = window.to(tl.int64)[:, None] * channels + channel[None, :]
    mean, invstd, scale, shift = _load_channels(stats, weight, bias, channel, channels)
    xhat = (_load(pooled, at, mask) - mean) * invstd
    grad_z = _grad_z(_load(grad, at, mask), xhat * scale + shift, ACTIVATION)
    slope = _load(total, channel, real)[None, :] / windows
    level = _load(total, channels + channel, real)[None, :] / windows
    value = scale * invstd * (grad_z - level - xhat * slope)
    value = tl.where(mask, value, 0.0).to(grad_x.dtype.element_ty)
    place = tl.load(places + at, mask, other=0)

    corner = (image * height + 2 * row).to(tl.int64) * width + 2 * column
    to = grad_x + corner[:, None] * channels + channel[None, :]
    to_below = to + width * channels
    has_right, has_below = 2 * column + 1 < width, 2 * row + 1 < height
    zero = tl.zeros_like(value)
    inside, real = inside[:, None], real[None, :]
    has_right, has_below = has_right[:, None] & real, has_below[:, None]
    tl.store(to, tl.where(place == 0, value, zero), inside & real)
    tl.store(to + channels, tl.where(place == 1, value, zero), inside & has_right)
    tl.store(to_below, tl.where(place == 2, value, zero), inside & has_below & real)
    tl.store(to_below + channels, tl.where(place == 3, value, zero), inside & has_below & has_right)


@triton.jit
def _share(channels, BLOCK_CHANNELS: tl.constexpr):
    """This program's block of windows, or part, and its channels, which vary fastest."""
    channel_blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    channel = (tl.program_id(0) % channel_blocks) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    return tl.program_id(0) // channel_blocks, channel


@triton.jit
def _load(pointer, at, mask):
    return tl.load(pointer + at, mask, other=0.0).to(tl.float32)


@triton.jit
def _corner(window, height, width):
    """Where in x, counted in places, the upper left corner of each window is: int64."""
    row = window // (width // 2)  # of the rows of all images' pooled maps
    column = window - row * (width // 2)
    # With an odd height each image has one row more than its windows cover.
    row = 2 * row + (row // (height // 2)) * (height % 2)
    return row.to(tl.int64) * width + 2 * column


@triton.jit
def _maximum(x, at, mask, right, below):
    """The largest of each window with corner `at`, and its place, 0 to 3: the first of equals.

    NaN if there is one.
    """
    a, b = _load(x, at, mask), _load(x, at + right, mask)
    c, d = _load(x, at + below, mask), _load(x, at + below + right, mask)
    upper = tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    lower = tl.maximum(c, d, propagate_nan=tl.PropagateNan.ALL)
    largest = tl.maximum(upper, lower, propagate_nan=tl.PropagateNan.ALL)
    place = tl.where(a == largest, 0, tl.where(b == largest, 1, tl.where(c == largest, 2, 3)))
    return largest, place


@triton.jit
def _store_part(parts, part, count, first, second, channel, channels):
    """Store row `part` of both halves of `parts`, (2, count, C)."""
    at = part * channels + channel
    tl.store(parts + at, first, channel < channels)
    tl.store(parts + count * channels + at, second, channel < channels)


@triton.jit
def _load_parts(parts, count, channels, BLOCK_PARTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """Both halves of `parts` for this program's channels; the indices of parts and channels."""
    channel = tl.program_id(0) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    part = tl.arange(0, BLOCK_PARTS)
    mask = (part < count)[:, None] & (channel < channels)[None, :]
    at = part[:, None] * channels + channel[None, :]
    second = _load(parts + count * channels, at, mask)
    return _load(parts, at, mask), second, part, channel, mask


@triton.jit
def _load_channels(stats, weight, bias, channel, channels):
    """Mean, 1/σ, weight and bias, each as a row."""
    real = channel < channels
    mean, invstd = _load(stats, channel, real), _load(stats, channels + channel, real)
    weight, bias = _load(weight, channel, real), _load(bias, channel, real)
    return mean[None, :], invstd[None, :], weight[None, :], bias[None, :]


@triton.jit
def _move(running, value, momentum, mask):
    moved = tl.load(running, mask, other=0.0).to(tl.float32)
    moved += momentum * (value - moved)
    tl.store(running, moved.to(running.dtype.element_ty), mask)


@triton.jit
def _normal_cdf(z):
    return 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))


@triton.jit
def _grad_z(grad, z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        return tl.where(z <= 0, 0.0, grad)
    else:
        return grad * (_normal_cdf(z) + z * tl.exp(-0.5 * z * z) * 0.3989422804014327)
