"""The two ways in which a run may end badly. Both end in one line that says what to do."""


class UserError(Exception):
    """Something that the user can put right: an argument, a parameter, a file. Exit code 2."""


class OutsideError(Exception):
    """Something outside failed: the network, the service, the disk. Exit code 1."""
