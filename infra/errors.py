"""The errors a user can meet, each with the exit code its command ends with.

Codes: 1 error, 2 usage, 3 partly done, 4 resources or storage, 5 conflict, 130 interrupted.
"""


class SarsenseError(Exception):
    """Something went wrong that the message explains: what was found, what was expected, what to do."""

    exit_code = 1


class UsageError(SarsenseError):
    """What was asked for cannot be: an option, a path or a configuration is wrong."""

    exit_code = 2


class PartialError(SarsenseError):
    """The work ended with some items set aside; the rest is complete."""

    exit_code = 3


class ResourceError(SarsenseError):
    """Storage, memory or a cluster failed or refused."""

    exit_code = 4


class ConflictError(SarsenseError):
    """Somebody else's result is already where this one should go."""

    exit_code = 5
