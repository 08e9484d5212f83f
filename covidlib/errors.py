"""The one exception this package raises for bad data, bad settings and missing files."""


class DataError(ValueError):
    """What was given cannot be used; the message names the case and file, what came, what is allowed, what to do."""
