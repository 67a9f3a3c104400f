"""The command line: what is wrong is said in one line."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from pilus_operator.main import main


@pytest.mark.parametrize(
    ("settings", "kubeconfig", "said"),
    [
        ("enable-ipv7: 'true'", None, "the nearest is 'enable-ipv"),
        ("", "absent", "the kubeconfig can't be used"),
        ("", None, "name a kubeconfig"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, kubeconfig: str | None, said: str
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    config = tmp_path / "settings.yaml"
    config.write_text(settings)
    arguments = ["--config", str(config)] + (["--kubeconfig", str(tmp_path / kubeconfig)] if kubeconfig else [])
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert said in done.output
    assert "Traceback" not in done.output
