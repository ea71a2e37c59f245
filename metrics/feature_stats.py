"""Mean and covariance of features that come in batches and from several processes."""

from collections.abc import Sequence

import safetensors
import safetensors.torch
import torch

from dnnlib import files
from torch_utils import distributed

FORMAT = 'kdgan-feature-stats-1'


class FeatureStats:
    """The statistics of a set of features, which arrive in batches.

    Mean and covariance are kept in float64, and each batch is merged into them by the pairwise update of Chan, Golub
    and LeVeque ("Algorithms for computing the sample variance", 1983). Sums of squares would lose the covariance of
    features whose mean is large. Nothing here waits for the device.

    Args:
        capture_all:      keep the features themselves, float32.
        capture_mean_cov: keep mean and covariance.
        max_items:        ignore what comes after so many; None = no limit.
    Attributes:
        num_items:    features seen.
        num_features: width of a feature; None before the first batch.
    """

    def __init__(self, capture_all: bool = False, capture_mean_cov: bool = False, max_items: int | None = None):
        self.capture_all, self.capture_mean_cov, self.max_items = capture_all, capture_mean_cov, max_items
        self.num_items, self.num_features = 0, None
        self._batches: list[torch.Tensor] = []
        self._mean = self._cov = None

    def append_torch(self, x: torch.Tensor) -> None:
        """Adds features [N, num_features] of any float dtype; N may differ from batch to batch and be 0.

        Raises ValueError if the width differs from that of earlier batches.
        """
        if self.num_features is None:
            self._allocate(x)
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise ValueError(f'features have shape {list(x.shape)}, expected [N, {self.num_features}]')
        if self.max_items is not None:
            x = x[:self.max_items - self.num_items]
        if len(x) == 0:
            return
        self.num_items += len(x)
        if self.capture_all:
            self._batches.append(x.detach().to(torch.float32))
        if self.capture_mean_cov:
            self._merge(x.detach().to(torch.float64), len(x) / self.num_items)

    def _allocate(self, x: torch.Tensor) -> None:
        self.num_features = x.shape[1]
        self._batches = [x.new_zeros([0, self.num_features], dtype=torch.float32)]
        self._mean = x.new_zeros([self.num_features], dtype=torch.float64)
        self._cov = x.new_zeros([self.num_features] * 2, dtype=torch.float64)

    def _merge(self, x: torch.Tensor, share: float) -> None:
        """share: of this batch in all that was seen, itself included."""
        mean = x.mean(dim=0)
        shift = mean - self._mean
        x = x - mean
        self._cov.addmm_(x.T, x, beta=1 - share, alpha=share / len(x))
        self._cov.addr_(shift, shift, alpha=share * (1 - share))
        self._mean.lerp_(mean, share)

    @property
    def device(self) -> torch.device:
        """Where the statistics are."""
        return self._mean.device

    def is_finite(self) -> bool:
        """Whether no feature was infinite or NaN."""
        kept = ([self._mean] if self.capture_mean_cov else []) + (self._batches if self.capture_all else [])
        return all(bool(x.isfinite().all()) for x in kept)

    def get_all(self) -> torch.Tensor:
        """[num_items, num_features] float32."""
        return torch.cat(self._batches)

    def get_mean_cov(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean [num_features], covariance [num_features, num_features]), float64.

        The covariance is divided by the number of items, as StyleGAN2-ADA has it, where numpy.cov and the first FID
        code divide by one less.
        """
        return self._mean, self._cov

    def merge_processes(self, positions: Sequence[int] | None = None) -> None:
        """Makes these the statistics of all processes' items, which may differ in number and be none. Every process
        must call it, after at least one call of `append_torch`, if only with an empty batch.

        Args:
            positions: of this process's items among all, 0, 1, ...: features are put in this order. None = in that of
                       the processes.
        """
        device = self._mean.device
        counts = torch.zeros([distributed.get_world_size()], dtype=torch.int64, device=device)
        counts[distributed.get_rank()] = self.num_items
        counts = distributed.all_reduce_sum(counts).tolist()
        share = self.num_items / max(sum(counts), 1)
        if self.capture_mean_cov:
            mean = distributed.all_reduce_sum(self._mean * share)
            shift = self._mean - mean
            self._cov = distributed.all_reduce_sum((self._cov + shift.outer(shift)) * share)
            self._mean = mean
        if self.capture_all:
            before = sum(counts[:distributed.get_rank()])
            places = range(before, before + self.num_items) if positions is None else positions
            features = torch.zeros([sum(counts), self.num_features], device=device)
            features[torch.as_tensor(places, dtype=torch.int64, device=device)] = self.get_all()
            self._batches = [distributed.all_reduce_sum(features)]
        self.num_items = sum(counts)

    def save(self, path: str) -> None:
        """Writes a safetensors file, whole or not at all. Raises UserError where that is not possible."""
        tensors = dict(num_items=torch.tensor(self.num_items))
        if self.capture_mean_cov:
            tensors.update(mean=self._mean, cov=self._cov)
        if self.capture_all:
            tensors.update(features=self.get_all())
        with files.atomic_path(path) as temp:
            safetensors.torch.save_file({name: value.cpu() for name, value in tensors.items()}, temp,
                                        metadata=dict(format=FORMAT))

    @classmethod
    def load(cls, path: str) -> 'FeatureStats | None':
        """Loads what `save` wrote, on the CPU; None if there is no such file, or it is damaged or of another format."""
        try:
            with safetensors.safe_open(path, framework='pt') as f:
                metadata = f.metadata() or {}
            tensors = safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError):
            return None
        if metadata.get('format') != FORMAT:
            return None
        stats = cls(capture_all='features' in tensors, capture_mean_cov='cov' in tensors)
        stats._allocate(tensors['features' if stats.capture_all else 'cov'])
        stats.num_items = int(tensors['num_items'])
        if stats.capture_mean_cov:
            stats._mean, stats._cov = tensors['mean'], tensors['cov']
        if stats.capture_all:
            stats._batches = [tensors['features']]
        return stats
