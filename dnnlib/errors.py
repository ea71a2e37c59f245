"""What programs report in one line."""


class UserError(Exception):
    """A mistake the user can mend: the message names the file or option, the value and the remedy.

    Programs end with it as one line and exit code 1 (see `user_errors`); it never shows a traceback.
    """


class UnusableFile(Exception):
    """What is wrong with a file, in one line that does not name it: whoever knows its name makes a `UserError` of
    it."""
