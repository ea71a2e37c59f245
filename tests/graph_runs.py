"""What the tests of recorded phases share."""

from training.speed.recorded_phase import TRIALS, WARM_UP, RecordedPhase

EVERYTHING = WARM_UP + TRIALS + 1           # calls after which a phase is replayed alone


def recorded(training):
    return {name: function for name, function in training.accumulate.items() if isinstance(function, RecordedPhase)}
