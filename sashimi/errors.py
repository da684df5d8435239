"""The error that is the user's to mend."""


class UserError(ValueError):
    """A bad setting, file or value. The message names it and the fix; entry points print it without a traceback."""
