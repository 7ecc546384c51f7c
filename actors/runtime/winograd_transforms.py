"""Winograd's transforms of tiles (Lavin and Gray 2016, sections 4.1 and 4.3), compiled: B^T d B and A^T m A.

Written as sums, with what their rows share, where a product with the matrices takes four times the operations; channels
are the innermost loop, which becomes vector instructions. One pass over memory each.

Shapes: N pictures, H W rows and columns, C channels; T tiles of all pictures, row by row; P numbers of a tile.
"""

import numpy as np
from numba import njit

# contract: fused multiply-adds; the other flags of fastmath would assume that there is no NaN
_compiled = njit(nogil=True, cache=True, fastmath={"contract"})
_2, _4, _5, _8 = (np.float32(number) for number in (2, 4, 5, 8))


@_compiled
def cut_4(padded_NHWC, tiles_PTC):  # type: ignore[no-untyped-def]
    """Tiles of 6x6 pixels, 4 apart, transformed for F(4x4, 3x3).

    Args:
        padded_NHWC: float32, H and W are 4 times the tiles and 2 more.
        tiles_PTC: float32 (36, T, C), written.
    """
    count, height, width, channels = padded_NHWC.shape
    half_66C = np.empty((6, 6, channels), np.float32)
    t = 0
    for n in range(count):
        for y in range(0, height - 2, 4):
            for x in range(0, width - 2, 4):
                for j in range(6):
                    for c in range(channels):
                        d0, d1 = padded_NHWC[n, y, x + j, c], padded_NHWC[n, y + 1, x + j, c]
                        d2, d3 = padded_NHWC[n, y + 2, x + j, c], padded_NHWC[n, y + 3, x + j, c]
                        d4, d5 = padded_NHWC[n, y + 4, x + j, c], padded_NHWC[n, y + 5, x + j, c]
                        e, o = d4 - _4 * d2, d3 - _4 * d1
                        f, p = d4 - d2, _2 * (d3 - d1)
                        half_66C[0, j, c] = _4 * d0 - _5 * d2 + d4
                        half_66C[1, j, c] = e + o
                        half_66C[2, j, c] = e - o
                        half_66C[3, j, c] = f + p
                        half_66C[4, j, c] = f - p
                        half_66C[5, j, c] = _4 * d1 - _5 * d3 + d5
                for i in range(6):
                    for c in range(channels):
                        d0, d1, d2 = half_66C[i, 0, c], half_66C[i, 1, c], half_66C[i, 2, c]
                        d3, d4, d5 = half_66C[i, 3, c], half_66C[i, 4, c], half_66C[i, 5, c]
                        e, o = d4 - _4 * d2, d3 - _4 * d1
                        f, p = d4 - d2, _2 * (d3 - d1)
                        tiles_PTC[6 * i, t, c] = _4 * d0 - _5 * d2 + d4
                        tiles_PTC[6 * i + 1, t, c] = e + o
                        tiles_PTC[6 * i + 2, t, c] = e - o
                        tiles_PTC[6 * i + 3, t, c] = f + p
                        tiles_PTC[6 * i + 4, t, c] = f - p
                        tiles_PTC[6 * i + 5, t, c] = _4 * d1 - _5 * d3 + d5
                t += 1


@_compiled
def join_4(products_PTC, bias_C, y_NHWC):  # type: ignore[no-untyped-def]
    """The outputs of `cut_4`'s tiles after their products: 4x4 pixels of each, with the bias.

    Args:
        products_PTC: float32 (36, T, C).
        bias_C: float32.
        y_NHWC: float32, H and W are 4 times the tiles; written.
    """
    count, height, width, channels = y_NHWC.shape
    half_46C = np.empty((4, 6, channels), np.float32)
    t = 0
    for n in range(count):
        for y in range(0, height, 4):
            for x in range(0, width, 4):
                for j in range(6):
                    for c in range(channels):
                        m0, m1, m2 = products_PTC[j, t, c], products_PTC[6 + j, t, c], products_PTC[12 + j, t, c]
                        m3, m4, m5 = products_PTC[18 + j, t, c], products_PTC[24 + j, t, c], products_PTC[30 + j, t, c]
                        s, d, u, v = m1 + m2, m1 - m2, m3 + m4, m3 - m4
                        half_46C[0, j, c] = m0 + s + u
                        half_46C[1, j, c] = d + _2 * v
                        half_46C[2, j, c] = s + _4 * u
                        half_46C[3, j, c] = d + _8 * v + m5
                for i in range(4):
                    for c in range(channels):
                        m0, m1, m2 = half_46C[i, 0, c], half_46C[i, 1, c], half_46C[i, 2, c]
                        m3, m4, m5 = half_46C[i, 3, c], half_46C[i, 4, c], half_46C[i, 5, c]
                        s, d, u, v, b = m1 + m2, m1 - m2, m3 + m4, m3 - m4, bias_C[c]
                        y_NHWC[n, y + i, x, c] = m0 + s + u + b
                        y_NHWC[n, y + i, x + 1, c] = d + _2 * v + b
                        y_NHWC[n, y + i, x + 2, c] = s + _4 * u + b
                        y_NHWC[n, y + i, x + 3, c] = d + _8 * v + m5 + b
                t += 1


@_compiled
def cut_2(padded_NHWC, tiles_PTC):  # type: ignore[no-untyped-def]
    """As `cut_4`, for F(2x2, 3x3): tiles of 4x4 pixels, 2 apart; `tiles_PTC` is (16, T, C)."""
    count, height, width, channels = padded_NHWC.shape
    half_44C = np.empty((4, 4, channels), np.float32)
    t = 0
    for n in range(count):
        for y in range(0, height - 2, 2):
            for x in range(0, width - 2, 2):
                for j in range(4):
                    for c in range(channels):
                        d0, d1 = padded_NHWC[n, y, x + j, c], padded_NHWC[n, y + 1, x + j, c]
                        d2, d3 = padded_NHWC[n, y + 2, x + j, c], padded_NHWC[n, y + 3, x + j, c]
                        half_44C[0, j, c] = d0 - d2
                        half_44C[1, j, c] = d1 + d2
                        half_44C[2, j, c] = d2 - d1
                        half_44C[3, j, c] = d3 - d1
                for i in range(4):
                    for c in range(channels):
                        d0, d1, d2, d3 = half_44C[i, 0, c], half_44C[i, 1, c], half_44C[i, 2, c], half_44C[i, 3, c]
                        tiles_PTC[4 * i, t, c] = d0 - d2
                        tiles_PTC[4 * i + 1, t, c] = d1 + d2
                        tiles_PTC[4 * i + 2, t, c] = d2 - d1
                        tiles_PTC[4 * i + 3, t, c] = d3 - d1
                t += 1


@_compiled
def join_2(products_PTC, bias_C, y_NHWC):  # type: ignore[no-untyped-def]
    """As `join_4`, for F(2x2, 3x3): `products_PTC` is (16, T, C), and each tile gives 2x2 pixels."""
    count, height, width, channels = y_NHWC.shape
    half_24C = np.empty((2, 4, channels), np.float32)
    t = 0
    for n in range(count):
        for y in range(0, height, 2):
            for x in range(0, width, 2):
                for j in range(4):
                    for c in range(channels):
                        m0, m1 = products_PTC[j, t, c], products_PTC[4 + j, t, c]
                        m2, m3 = products_PTC[8 + j, t, c], products_PTC[12 + j, t, c]
                        half_24C[0, j, c] = m0 + m1 + m2
                        half_24C[1, j, c] = m1 - m2 + m3
                for i in range(2):
                    for c in range(channels):
                        m0, m1, m2, m3 = half_24C[i, 0, c], half_24C[i, 1, c], half_24C[i, 2, c], half_24C[i, 3, c]
                        y_NHWC[n, y + i, x, c] = m0 + m1 + m2 + bias_C[c]
                        y_NHWC[n, y + i, x + 1, c] = m1 - m2 + m3 + bias_C[c]
                t += 1
