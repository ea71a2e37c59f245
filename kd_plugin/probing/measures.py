"""Measures of features: how well a linear classifier separates classes, or real from fake, with them."""

from typing import NamedTuple

import numpy as np
import torch

FOLDS = 5
STRENGTHS = np.logspace(-5, 2, 15)          # of the ridge, in units of the mean squared singular value


class Separation(NamedTuple):
    """A cross-validated accuracy."""
    accuracy: float                         # mean over the folds
    std: float                              # between the folds
    chance: float                           # accuracy of always predicting the most frequent class


def linear_probe(feats, labels, seed=0):
    """How well a linear classifier on the features predicts the labels: `FOLDS`-fold cross-validation, each fold with
    its share of every class.

    Args:
        feats:  [N, M] tensor.
        labels: int [N].
        seed:   of the folds.
    Returns:    `Separation`, or None where there is one class only, or one with fewer than two images.
    """
    feats, labels = feats.double().numpy(), np.asarray(labels)
    classes, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        return None
    rng = np.random.default_rng(seed)
    order = np.lexsort([rng.random(len(labels)), numbers])              # by class, at random within it
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % FOLDS
    accuracies = []
    for i in range(FOLDS):
        test = fold == i
        choice = ridge_scores(feats[~test], np.eye(len(classes))[numbers[~test]], feats[test]).argmax(1)
        accuracies.append((choice == numbers[test]).mean())
    return Separation(float(np.mean(accuracies)), float(np.std(accuracies)), float(counts.max() / len(labels)))


def ridge_scores(x, y, x_new):
    """Ridge regression with an intercept; its strength is the one with the least squared error when each row is left
    out in turn.

    Args:
        x, y:  [N, M], [N, K].
        x_new: [N', M].
    Returns:   [N', K], predictions for `x_new`.
    Source:    leave-one-out residuals in closed form (PRESS; Golub, Heath and Wahba, Technometrics 1979), the means
               taken as known.
    """
    x_mean, y_mean = x.mean(0), y.mean(0)
    u, s, vt = np.linalg.svd(x - x_mean, full_matrices=False)
    projected = u.T @ (y - y_mean)                                      # [r, K]
    best, weights = np.inf, np.zeros([len(s), y.shape[1]])
    for strength in STRENGTHS * max((s ** 2).mean(), np.finfo(float).tiny):
        shrink = s ** 2 / (s ** 2 + strength)
        residual = (y - y_mean - u @ (shrink[:, None] * projected)) / (1 - (u ** 2 @ shrink))[:, None]
        error = np.square(residual).sum()
        if error < best:
            best, weights = error, (s / (s ** 2 + strength))[:, None] * projected
    return (x_new - x_mean) @ vt.T @ weights + y_mean


def zero_shot(feats, text_feats, labels):
    """Share of images [N] whose own class is the text that fits best, by cosine as in CLIP.

    Args:
        feats, text_feats: [N, M], [K, M]; one text per class.
    """
    choice = (feats @ torch.nn.functional.normalize(text_feats, dim=1).T).argmax(1)
    return float((choice.numpy() == np.asarray(labels)).mean())


def norms(feats):
    """(mean, standard deviation) of the lengths of the rows of [N, M]."""
    lengths = torch.linalg.vector_norm(feats, dim=1)
    return float(lengths.mean()), float(lengths.std(correction=0))
