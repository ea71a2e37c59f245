"""Feature mimicking (FitNets, Romero et al., ICLR 2015): the baseline "KD (CLIP)" of KD-DLGAN."""

from .distiller import Distiller


def mean_square(student, teacher):
    """[N, M], [N, M] -> [N]: mean of squared differences."""
    return (student - teacher).square().mean(1)


class FitNets(Distiller):
    """Pulls the student's embedding of an image to the teacher's: mean over N and M of (f_s - f_t)^2, on fakes and on
    reals."""

    name = 'fitnets'

    def loss(self, rows):
        return mean_square(rows.student, rows.own)
