"""What programs report in one line."""


class UserError(Exception):
    """A mistake that the user can correct: the message names the file or option, the value and the remedy.

    Programs end with it as one line and exit code 1 (see `user_errors`); it never shows a traceback.

    Args:
        where:   the whole message, or, with the other two, the file or option and its value.
        problem: what is wrong.
        remedy:  what to do about it.
    Attributes:
        fact: the message without the remedy, for callers that know a better one; the whole message if it has no parts.
    """

    def __init__(self, where, problem=None, remedy=None):
        self.where, self.problem, self.remedy = where, problem, remedy
        self.fact = where if problem is None else f'{where}: {problem}'
        super().__init__(self.fact if remedy is None else f'{self.fact}; {remedy}')

    def __reduce__(self):
        return type(self), (self.where, self.problem, self.remedy)


class UnusableFile(Exception):
    """What is wrong with a file, in one line without its name: the caller knows the name and makes it a `UserError`."""


def refuse_idle(why: str, remedy: str = 'leave it out', /, **given) -> None:
    """Raises UserError for the first option that was given, but changes nothing.

    Args:
        why:    such as 'with --space=pixels'.
        remedy: what to do.
        given:  {option with _ for -: value}; None = not given.
    """
    for name, value in given.items():
        if value is not None:
            value = int(value) if isinstance(value, bool) else value
            raise UserError(f'--{name.replace("_", "-")}={value}: has no effect {why}; {remedy}')
