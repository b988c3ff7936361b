"""What the user of the command can mend."""


class CommandError(Exception):
    """One line: what is wrong and what to do. The command prints it and exits with 2."""
