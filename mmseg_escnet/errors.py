"""The one exception type of this package for input that a person can mend."""


class ESCNetError(ValueError):
    """Bad input: the message is one sentence that names the input, what is wrong, what to do.

    The command-line tools print the message without a traceback and exit with status 2.
    """
