"""Which texts YAML's loader has been given."""

import pytest

from pilus_api import yaml_text


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is parsed from now on, as it is."""
    texts: list[str] = []

    class Watched(yaml_text._Loader):
        def __init__(self, text: str) -> None:
            texts.append(text)
            super().__init__(text)

    monkeypatch.setattr(yaml_text, "_Loader", Watched)
    return texts
