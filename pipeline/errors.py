"""The errors that end a command with one line: the user's, and those from outside."""


class UserError(Exception):
    """Something the user can fix: an option, a parameter, a file."""


class ExternalError(Exception):
    """Something outside failed: the network, the service, the disk."""
