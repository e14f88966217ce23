"""The one exception a user is meant to see: a single line with the file, the value and the remedy."""


class UserError(Exception):
    """Something the user can mend. The CLI prints the message alone and exits 2; flows log it without a traceback."""
