"""The ways to distil, by their names in --kd; losses are added in this order."""

from .agkd import AGKD
from .cgkd import CGKD
from .fitnets import FitNets
from .labeldist import LabelDistillation
from .pkt import ProbabilisticTransfer
from .spkd import SimilarityPreserving

DISTILLERS = {method.name: method for method in (AGKD, CGKD, FitNets, LabelDistillation, ProbabilisticTransfer,
                                                 SimilarityPreserving)}
