"""Correlated generative knowledge distillation (KD-DLGAN, CVPR 2023, section 3.3)."""

import torch

F = torch.nn.functional


def image_text_correlation(feats, text_feats):
    """Similarity of each image to each text, one unit-length row per image.

    Args:
        feats:      [N, M] image features of the student or the teacher.
        text_feats: [K, M] text features, fixed during training.
    Returns:        [N, K] float32; rows have L2 norm 1 (the paper writes norm(.) without an axis; rows as in the released code).
    """
    return F.normalize(feats.to(torch.float32) @ text_feats.to(torch.float32).t(), dim=1)


def l1(a, b):
    """[N, K], [N, K] -> [N]: sum of absolute differences (paper)."""
    return (a - b).abs().sum(1)


def squared(a, b):
    """[N, K], [N, K] -> [N]: sum of squared differences (released code)."""
    return (a - b).square().sum(1)


class CGKD:
    """Pulls the student's image-text correlations to the teacher's: L = |C_T - C_S|.

    Args:
        text_feats: [K, M].
        distance:   `l1` or `squared`.
        reduction:  'mean' over the batch, or 'sum', which grows with the batch as in the released code.
    """

    def __init__(self, text_feats, distance=l1, reduction='mean'):
        self.text_feats = text_feats
        self.distance = distance
        self.reduction = reduction

    def __call__(self, student, teacher):
        """Both [N, M] embeddings of the same images -> loss per sample [N], whose mean is the loss."""
        loss = self.distance(image_text_correlation(teacher, self.text_feats), image_text_correlation(student, self.text_feats))
        return loss if self.reduction == 'mean' else loss * len(loss)


def mean_pairwise_cosine(corr, eps=1e-8):
    """Mean cosine between different rows: (|sum of unit rows|^2 - N) / (N (N - 1)), in O(N K).

    Args:
        corr: [N, K], N >= 2.
    Returns:  scalar in [-1 / (N - 1), 1]; small = diverse. Source: L_PD of KD-DLGAN with its index range read as 1..N, as a mean.
    """
    n = len(corr)
    rows = F.normalize(corr, dim=1, eps=eps)
    return (rows.sum(0).square().sum() - n) / (n * (n - 1))


def hinged_pairwise_cosine(gen_corr, real_corr):
    """mean over i != j of relu(cos(gen_i, gen_j) - c), where c is the mean cosine between different reals.

    Fakes are pushed apart until they are as diverse as the data. `real_corr` is taken as constant. Both [N, K], N >= 2 -> scalar.
    """
    limit = mean_pairwise_cosine(real_corr).detach()
    rows = F.normalize(gen_corr, dim=1)
    cosines = rows @ rows.t()
    n = len(rows)
    off_diagonal = ~torch.eye(n, dtype=torch.bool, device=rows.device)
    return (F.relu(cosines - limit) * off_diagonal).sum() / (n * (n - 1))
