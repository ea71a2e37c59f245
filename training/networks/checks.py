"""What an argument of a network may be, as rows of architectures say it: functions of a JSON value -> bool."""


def whole(low, high):
    return lambda value: type(value) is int and low <= value <= high


def number(low, high):
    return lambda value: type(value) in (int, float) and low <= value <= high         # NaN is in no range


def one_of(*values):
    return lambda value: type(value) in (str, int) and value in values


def optional(check):
    return lambda value: value is None or check(value)


def flag(value):
    return type(value) is bool


width = whole(0, 1 << 14)
IMAGE = dict(c_dim=width, img_resolution=one_of(*[2 ** i for i in range(2, 13)]), img_channels=whole(1, 64))
