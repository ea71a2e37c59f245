"""The Frechet distance between two Gaussians, given by their means and covariances."""

import math
from typing import NamedTuple

import torch


class FrechetTerms(NamedTuple):
    """What the distance consists of. A factor on a covariance is one on its trace, and its root one on the mixed term.

    mean:    |mean_r - mean_f|^2.
    trace_r, trace_f: of the covariances.
    mixed:   tr((cov_r cov_f)^(1/2)).
    """
    mean: float
    trace_r: float
    trace_f: float
    mixed: float

    def distance(self, factor_r: float = 1, factor_f: float = 1) -> float:
        """Of these Gaussians, the covariances multiplied by these factors."""
        mixed = math.sqrt(factor_r * factor_f) * self.mixed
        return self.mean + factor_r * self.trace_r + factor_f * self.trace_f - 2 * mixed


def frechet_distance(mean_r, cov_r, mean_f, cov_f) -> float:
    """|mean_r - mean_f|^2 + tr(cov_r + cov_f - 2 (cov_r cov_f)^(1/2)); arguments and source: see `frechet_terms`.

    Returns: the distance, 0 or more up to rounding (about 1e-8 of the traces); NaN if an input is not finite.
    """
    return frechet_terms(mean_r, cov_r, mean_f, cov_f).distance()


def frechet_terms(mean_r, cov_r, mean_f, cov_f) -> FrechetTerms:
    """The terms of the Frechet distance, in float64 on the CPU.

    With cov_r = A A^T, the product cov_r cov_f has the same eigenvalues but zeros as the symmetric A^T cov_f A, so that
    the trace of its root is the sum of their roots: no square root of an unsymmetric matrix is needed, which is
    unstable and comes out complex where a covariance is singular. A has a column for each eigenvalue of cov_r above
    rounding. With fewer images than features (100-shot sets: rank 99 of 2048) the result is thus the exact distance of
    the two degenerate Gaussians, no offset is added to the diagonal, and the work falls from F^3 to F^2 rank for all
    but the decomposition of cov_r. Such a distance is well defined but is biased upwards by the small sample: compare
    it only with those of equal counts.

    Args:
        mean_r, mean_f: [F] array or tensor.
        cov_r, cov_f:   [F, F], symmetric, no negative eigenvalues except for rounding.
    Returns:            the terms; all NaN if an input is not finite.
    Raises:             ValueError if the shapes do not agree.
    Source:             Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982; as
                        FID: Heusel et al., NIPS 2017.
    """
    mean_r, cov_r, mean_f, cov_f = [torch.as_tensor(x, dtype=torch.float64, device='cpu')
                                    for x in (mean_r, cov_r, mean_f, cov_f)]
    num = len(mean_r)
    if mean_f.shape != (num,) or cov_r.shape != (num, num) or cov_f.shape != (num, num):
        raise ValueError(f'means {list(mean_r.shape)} and {list(mean_f.shape)}, covariances {list(cov_r.shape)} and '
                         f'{list(cov_f.shape)}: they must be [F], [F], [F, F] and [F, F]')
    if not all(bool(x.isfinite().all()) for x in (mean_r, cov_r, mean_f, cov_f)):
        return FrechetTerms(math.nan, math.nan, math.nan, math.nan)
    root = factor(cov_r)
    mixed = torch.linalg.eigvalsh(root.T @ cov_f @ root).clamp(min=0).sqrt().sum()
    return FrechetTerms(*map(float, ((mean_r - mean_f).square().sum(), cov_r.trace(), cov_f.trace(), mixed)))


def factor(cov: torch.Tensor) -> torch.Tensor:
    """A [F, rank] with cov = A A^T: the eigenvectors, as long as the roots of their eigenvalues, of which those of
    rounding are left out."""
    values, vectors = torch.linalg.eigh(cov)
    keep = values > values[-1] * len(cov) * torch.finfo(cov.dtype).eps
    return vectors[:, keep] * values[keep].sqrt()
