"""The command line against a process that answers on a unix socket, as the agent does."""

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilus_cli.main import _output_anywhere, main

Answer = Callable[[dict[str, object]], list[object]]


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def serve(runtime: Path) -> Iterator[Callable[[str, Answer], None]]:
    listening: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(name: str, answer: Answer) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(runtime / name))
        server.listen()
        listening.append(server)

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    request = json.loads(connection.makefile("rb").readline())
                    for line in answer(request):
                        raw = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
                        connection.sendall(raw)

        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)

    yield start
    for server in listening:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    for thread in threads:
        thread.join(10)


def run(runtime: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["pilus", "--runtime", str(runtime), *arguments])
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


ENDPOINT = {
    "number": 7,
    "namespace": "shop",
    "name": "web-1",
    "identity": 300,
    "labels": ["k8s:app=web", "k8s:io.cilium.k8s.policy.cluster=default"],
    "ipv4": "10.44.1.5",
    "ipv6": "fd00:44:0:1::5",
    "ingress_enforced": True,
    "egress_enforced": False,
    "state": "ready",
}


def test_endpoints_are_listed_with_name_address_and_identity(
    runtime: Path,
    serve: Callable[[str, Answer], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve("agent.sock", lambda _: [{"ok": True, "items": [ENDPOINT]}])
    assert run(runtime, monkeypatch, "endpoint", "list") == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["ENDPOINT", "POD", "IDENTITY", "IPv4", "IPv6", "ENFORCED", "STATE", "LABELS"]
    assert line.split() == ["7", "shop/web-1", "300", "10.44.1.5", "fd00:44:0:1::5", "ingress", "ready", "k8s:app=web"]


@pytest.mark.parametrize("arguments", [["-o", "json", "endpoint", "list"], ["endpoint", "list", "-o", "json"]])
def test_json_is_what_the_agent_said_wherever_the_option_stands(
    runtime: Path,
    serve: Callable[[str, Answer], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    serve("agent.sock", lambda _: [{"ok": True, "items": [ENDPOINT]}])
    assert run(runtime, monkeypatch, *arguments) == 0
    assert json.loads(capsys.readouterr().out) == [ENDPOINT]


@pytest.mark.parametrize("which", ["7", "10.44.1.5", "fd00:44:0:1::5", "shop/web-1", "web-1"])
def test_an_endpoint_is_found_by_number_address_and_name(
    runtime: Path,
    serve: Callable[[str, Answer], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    which: str,
) -> None:
    serve(
        "agent.sock",
        lambda _: [{"ok": True, "items": [ENDPOINT, {**ENDPOINT, "number": 8, "name": "web-2", "ipv4": "x", "ipv6": "y"}]}],
    )
    assert run(runtime, monkeypatch, "endpoint", "get", which) == 0
    assert json.loads(capsys.readouterr().out)["number"] == 7


def test_an_unknown_endpoint_is_an_error_that_says_where_to_look(
    runtime: Path,
    serve: Callable[[str, Answer], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve("agent.sock", lambda _: [{"ok": True, "items": [ENDPOINT]}])
    assert run(runtime, monkeypatch, "endpoint", "get", "nobody") == 1
    assert "pilus endpoint list" in capsys.readouterr().err


def test_without_an_agent_the_error_says_what_to_do(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(runtime, monkeypatch, "status") == 1
    error = capsys.readouterr().err
    assert "no agent is running here" in error
    assert "do: run this on a node" in error


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"not json\n", "something else than a JSON object"),
        (b"[]\n", "something else than a JSON object"),
        (b'{"ok": false, "error": "no \\u001b", "action": "wait"}\n', "no \\x1b"),
        (b"", "closed the connection"),
        (b'{"ok": true}\n', "lists nothing"),
    ],
)
def test_a_broken_answer_is_an_error_and_no_traceback(
    runtime: Path,
    serve: Callable[[str, Answer], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: bytes,
    said: str,
) -> None:
    serve("agent.sock", lambda _: [answer])
    assert run(runtime, monkeypatch, "identity", "list") == 1
    assert said in capsys.readouterr().err


def test_status_fails_when_a_check_has_failed(
    runtime: Path,
    serve: Callable[[str, Answer], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks = [
        {"name": "programs", "state": "ok", "message": "attached to 3 endpoints", "action": None},
        {"name": "api server", "state": "failed", "message": "away since 12:00", "action": "look at its log"},
    ]
    item = {
        "node": "n1",
        "cluster": "default",
        "version": "0.1.0",
        "uptime_seconds": 62,
        "routing_mode": "tunnel",
        "checks": checks,
        "maps": [],
    }
    serve("agent.sock", lambda _: [{"ok": True, "item": item}])
    assert run(runtime, monkeypatch, "status") == 1
    page = capsys.readouterr().out
    assert "up 1 min 2 s" in page
    assert "do: look at its log" in page


@pytest.mark.parametrize("there", [True, False])
def test_status_says_whether_an_observer_is_there(
    runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[str, Answer], None],
    capsys: pytest.CaptureFixture[str],
    there: bool,
) -> None:
    serve("agent.sock", lambda _: [{"ok": True, "item": {"node": "n1", "checks": []}}])
    if there:
        serve(
            "observer.sock",
            lambda _: [{"drops": [{"reason": "Policy denied", "packets": 3}], "forwards": [{"packets": 40}, {"packets": 2}]}],
        )
    assert run(runtime, monkeypatch, "status") == 0, "traffic goes on without an observer"
    shown = capsys.readouterr().out
    assert ("42 packets passed, 3 dropped" if there else "degraded") in shown
    assert "observer" in shown


def test_monitor_shows_drops_with_names_and_reason(
    runtime: Path,
    serve: Callable[[str, Answer], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ends = {
        "source": {"address": "10.0.0.1", "port": 1234, "identity": 300, "name": "shop/other"},
        "destination": {"address": "10.0.0.2", "port": 80, "identity": 301, "name": "shop/web"},
    }
    forwarded = {"time": 1.5, "verdict": "FORWARDED", "protocol": "TCP", **ends}
    dropped = {
        **forwarded,
        "verdict": "DROPPED",
        "reason": "Policy denied",
        "reason_number": 133,
        "direction": "ingress",
    }
    serve("observer.sock", lambda _: [forwarded, dropped])
    assert run(runtime, monkeypatch, "monitor", "--no-follow", "--drops") == 0
    assert capsys.readouterr().out.splitlines() == [
        "00:00:01.500  DROPPED   TCP    shop/other (10.0.0.1:1234) identity 300 -> shop/web (10.0.0.2:80) identity 301"
        "  ingress  Policy denied (133)"
    ]


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        (["node", "list", "-o", "json"], ["-o", "json", "node", "list"]),
        (["node", "list", "--output=json"], ["--output=json", "node", "list"]),
        (["lab", "kubectl", "--", "get", "pods", "-o", "json"], ["lab", "kubectl", "--", "get", "pods", "-o", "json"]),
        (["endpoint", "get", "--", "-o", "x"], ["endpoint", "get", "--", "-o", "x"]),
    ],
)
def test_the_output_option_is_moved_only_where_it_is_ours(typed: list[str], understood: list[str]) -> None:
    assert _output_anywhere(typed) == understood


def test_an_agent_that_hangs_up_is_said(runtime: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before it has read the question: that ended in silence, and exit status 1."""

    def hung_up(*_: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    monkeypatch.setattr("pilus_cli.client._connect", hung_up)
    assert run(runtime, monkeypatch, "node", "list") == 1
    assert "closed the connection" in capsys.readouterr().err
