"""The root of every error that Pilus raises on purpose. A leaf's text says what is wrong and what to do about it."""


class PilusError(Exception):
    """Something a person can act on; `str()` of it is fit to be shown."""


class InvalidError(PilusError):
    """An object, a setting or a packet of bytes does not mean anything. `path` is the field, dotted, where it is known."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class TemporaryError(PilusError):
    """Trying again later may help."""
