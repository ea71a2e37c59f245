"""Distances between features, a block of rows at a time."""

from collections.abc import Iterator

import torch

from .detectors import full_float32

CHUNK = 1 << 26             # distances at a time: 256 MB


def chunks(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """(rows of x, their Euclidean distances [rows, M] to all of y), float32, as matrix products without TF32.

    Both must be centred alike, since the products lose differences that are small against the distance to the origin.
    """
    squares_x, squares_y = x.square().sum(dim=1), y.square().sum(dim=1)
    step = max(CHUNK // len(y), 1)
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        with full_float32():
            squares = torch.addmm(squares_y + squares_x[rows, None], x[rows], y.T, alpha=-2)
        yield rows, squares.clamp_(min=0).sqrt_()


def centred(*sets: torch.Tensor) -> list[torch.Tensor]:
    """All sets on the device of the last set, minus the mean of the first."""
    device = sets[-1].device
    mean = sets[0].to(device, torch.float64).mean(dim=0).to(torch.float32)
    return [x.to(device, torch.float32) - mean for x in sets]


def nearest(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-> (distance [N] of each of x to the nearest of y, taken again in float64, so that it is 0 for a copy; its number
    [N])."""
    items = torch.cat([distances.argmin(dim=1) for _, distances in chunks(x, y)])
    return _exact(x, y[items]), items


def nearest_other(x: torch.Tensor) -> torch.Tensor:
    """Distance [N] of each of x to the nearest other one, likewise."""
    return _exact(x, x[torch.cat([_without_self(distances, rows).argmin(dim=1) for rows, distances in chunks(x, x)])])


def kth_nearest_other(x: torch.Tensor, k: int) -> torch.Tensor:
    """Distance [N] of each of x to its k-th nearest other one."""
    return torch.cat([_without_self(distances, rows).kthvalue(k, dim=1).values for rows, distances in chunks(x, x)])


def _without_self(distances: torch.Tensor, rows: slice) -> torch.Tensor:
    distances[torch.arange(len(distances)), torch.arange(rows.start, rows.stop)] = torch.inf
    return distances


def _exact(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.to(torch.float64) - y.to(torch.float64)).norm(dim=1)
