"""The plugin as runtimes start it: a process with an environment and a configuration on stdin."""

import json
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pilus_agent.sources import cni_request

PLUGIN = Path(__file__).resolve().parents[3] / "nodeagent/pilus_cni/pilus-cni"
CONFIG = b'{"cniVersion": "1.0.0", "name": "pilus", "type": "pilus-cni"}'
CONTAINER = "0f9a"

pytestmark = pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="the plugin's interpreter is not here")


@dataclass
class Place:
    """One node's folders, and an agent that answers what it is told to."""

    folder: Path
    plugin: Path = PLUGIN
    requests: list[bytes] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.folder / "agent.sock"

    @property
    def queue(self) -> Path:
        return self.folder / "queue"

    def queued(self) -> list[str]:
        return sorted(file.name for file in self.queue.iterdir()) if self.queue.exists() else []

    def environment(self, command: str, more: dict[str, str] | None = None) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "PILUS_AGENT_SOCKET": str(self.socket),
            "PILUS_CNI_QUEUE": str(self.queue),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": CONTAINER,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": "/run/netns/a",
            "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
            "CNI_PATH": "/opt/cni/bin",
            **(more or {}),
        }

    def run(self, command: str, config: bytes = CONFIG, **more: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self.plugin], input=config, capture_output=True, env=self.environment(command, more), timeout=60, check=False
        )

    def hasty(self, command: str) -> "Place":
        """With a plugin that gives `command` one second."""
        source = PLUGIN.read_text()
        seconds = {"ADD": 30, "CHECK": 30, "DEL": 10, "GC": 30, "STATUS": 5}[command]
        assert f'"{command}": {seconds}' in source
        self.plugin = self.folder / "hasty"
        self.plugin.write_text(source.replace(f'"{command}": {seconds}', f'"{command}": 1'))
        self.plugin.chmod(0o755)
        return self


Serve = Callable[[Callable[[socket.socket], None]], None]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def serve(place: Place) -> Iterator[Serve]:
    server = socket.socket(socket.AF_UNIX)
    threads: list[threading.Thread] = []

    def start(handle: Callable[[socket.socket], None]) -> None:
        server.bind(str(place.socket))
        server.listen()

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    handle(connection)

        threads.append(threading.Thread(target=run))
        threads[0].start()

    yield start
    if threads:
        server.shutdown(socket.SHUT_RDWR)
    server.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def answering(place: Place, answer: bytes) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        place.requests.append(connection.makefile("rb").read())
        connection.sendall(answer)

    return handle


def refusal(done: subprocess.CompletedProcess[bytes], version: str = "1.0.0") -> dict[str, object]:
    """A refusal as the specification wants it."""
    assert done.returncode == 1, done
    assert done.stderr == b""
    content = json.loads(done.stdout)
    assert isinstance(content, dict)
    assert content.keys() <= {"cniVersion", "code", "msg", "details"}
    assert content["cniVersion"] == version
    assert isinstance(content["code"], int)
    assert content["msg"]
    return content


# -- with an agent -------------------------------------------------------------------------------------------------------------


def test_an_interpreter_line_the_kernel_takes() -> None:
    first, _, rest = PLUGIN.read_text().partition("\n")
    assert first == "#!/usr/bin/python3 -IS"  # the kernel gives all that follows the path as one argument
    assert PLUGIN.stat().st_mode & 0o777 == 0o755
    top = [line for line in rest.splitlines() if line.startswith(("import ", "from "))]
    assert top == ["import _socket", "import os"]


def test_hands_over_the_request_as_it_is(place: Place, serve: Serve) -> None:
    serve(answering(place, b'0\n{"cniVersion": "1.0.0",\n "ips": []}\n'))
    config = CONFIG + b"\n\n\xff\x00 whatever"
    done = place.run("ADD", config, CNI_NETNS="/run/netns/\udcffé")
    assert (done.returncode, done.stdout, done.stderr) == (0, b'{"cniVersion": "1.0.0",\n "ips": []}\n', b"")
    head, body = place.requests[0].split(b"\n\n", 1)
    assert body == config
    first, *lines = head.split(b"\n")
    assert first == b"CNI 1"
    assert sorted(lines) == [
        b"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
        b"CNI_COMMAND=ADD",
        b"CNI_CONTAINERID=0f9a",
        b"CNI_IFNAME=eth0",
        b"CNI_NETNS=/run/netns/\xff\xc3\xa9",
        b"CNI_PATH=/opt/cni/bin",
    ]


def test_the_agent_understands_it(place: Place, serve: Serve) -> None:
    serve(answering(place, b"0\n{}\n"))
    place.run("ADD")
    request = cni_request.parse(place.requests[0])
    assert (request.command, request.key, request.netns) == ("ADD", "0f9a/eth0", "/run/netns/a")
    assert (request.namespace, request.pod, request.config.cni_version) == ("default", "web-0", "1.0.0")


@pytest.mark.parametrize(
    ("command", "answer", "code", "printed"),
    [
        ("ADD", b"0\n{}\n", 0, b"{}\n"),
        ("ADD", b'1\n{"code": 11}\n', 1, b'{"code": 11}\n'),
        ("CHECK", b"0\n", 0, b""),
        ("CHECK", b'1\n{"code": 7}\n', 1, b'{"code": 7}\n'),
        ("DEL", b"0\n", 0, b""),
        ("DEL", b'1\n{"code": 11}\n', 1, b'{"code": 11}\n'),  # an agent that is there decides itself
        ("GC", b"0\n", 0, b""),
        ("STATUS", b"0\n", 0, b""),
        ("STATUS", b'1\n{"code": 51}\n', 1, b'{"code": 51}\n'),
        ("STATUS", b"255\nx\n", 255, b"x\n"),
        ("ADD", b"0\n" + b"x" * 900_000 + b"\n", 0, b"x" * 900_000 + b"\n"),
    ],
)
def test_gives_the_answer_back(place: Place, serve: Serve, command: str, answer: bytes, code: int, printed: bytes) -> None:
    serve(answering(place, answer))
    done = place.run(command)
    assert (done.returncode, done.stdout, done.stderr) == (code, printed, b"")
    assert place.queued() == []


@pytest.mark.parametrize("config_length", [1 << 20, (1 << 20) + 1])
def test_limit_of_stdin(place: Place, serve: Serve, config_length: int) -> None:
    serve(answering(place, b"0\n{}\n"))
    done = place.run("ADD", CONFIG.ljust(config_length))
    if config_length <= 1 << 20:
        assert done.returncode == 0
        assert place.requests[0].endswith(CONFIG.ljust(config_length))
    else:
        assert refusal(done, "1.1.0")["code"] == 6
        assert place.requests == []


def test_an_agent_that_refuses_before_it_has_read_all(place: Place, serve: Serve) -> None:
    def handle(connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_RD)
        connection.sendall(b'1\n{"code": 6}\n')

    serve(handle)
    done = place.run("ADD", CONFIG.ljust(1 << 20))
    assert (done.returncode, done.stdout) == (1, b'{"code": 6}\n')


# -- without one ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_away(place: Place, command: str, code: int) -> None:
    content = refusal(place.run(command))
    assert content["code"] == code
    assert str(place.socket) in str(content["details"])
    assert place.queued() == []


CUT_OFF = [
    b"",
    b"0",
    b"0\n{",
    b'0\n{"a"',
    b"0\n",
    b"1\n",
    b"x\n{}\n",
    b"-1\n{}\n",
    b"256\n{}\n",
    b"\n{}\n",
    b"0\n" + b"x" * (1 << 20) + b"\n",
]


@pytest.mark.parametrize("answer", CUT_OFF, ids=lambda answer: repr(answer[:8]))
def test_an_answer_that_was_cut_off_is_none(place: Place, serve: Serve, answer: bytes) -> None:
    serve(answering(place, answer))
    assert refusal(place.run("ADD"))["code"] == 11


@pytest.mark.parametrize("there", ["nothing", "dead socket", "cut off"])
def test_del_waits_on_disk(place: Place, serve: Serve, there: str) -> None:
    if there == "dead socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(place.socket))
    elif there == "cut off":
        serve(answering(place, b""))
    for _ in range(2):  # runtimes ask twice
        done = place.run("DEL")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert place.queued() == ["0f9a-eth0"]
    file = place.queue / "0f9a-eth0"
    assert file.stat().st_mode & 0o777 == 0o600
    assert place.queue.stat().st_mode & 0o777 == 0o700
    request = cni_request.parse(file.read_bytes())
    assert (request.command, request.key, request.config.name) == ("DEL", "0f9a/eth0", "pilus")
    if place.requests:
        assert sorted(file.read_bytes().splitlines()) == sorted(place.requests[-1].splitlines())


def test_del_that_cant_be_kept_fails(place: Place) -> None:
    place.queue.write_bytes(b"a file where the folder should be")
    assert refusal(place.run("DEL"))["code"] == 5


def test_a_draft_is_never_followed(place: Place) -> None:
    place.queue.mkdir()
    (place.queue / "0f9a-eth0").symlink_to(place.folder / "victim")
    assert place.run("DEL").returncode == 0
    assert not (place.folder / "victim").exists()
    assert not (place.queue / "0f9a-eth0").is_symlink()


HOSTILE = [
    *[
        {"CNI_CONTAINERID": text}
        for text in ("", "..", "../../etc/x", "a/b", "-a", ".a", "a b", "a\tb", "é", "a" * 201, "\udcff", "²")
    ],
    *[
        {"CNI_IFNAME": text}
        for text in ("", ".", "..", "a/b", "../x", "a:b", "a b", "a\tb", "a" * 16, "éééééééé", "a\x01", "\udcff")
    ],
]


@pytest.mark.parametrize("more", HOSTILE, ids=repr)
def test_del_of_hostile_names_is_refused(place: Place, more: dict[str, str]) -> None:
    place.queue.mkdir()
    content = refusal(place.run("DEL", CONFIG, **more))
    assert content["code"] == 4
    assert place.queued() == []
    assert [file.name for file in place.folder.iterdir()] == ["queue"]


@pytest.mark.parametrize("command", ["STATUS", "DEL"])
@pytest.mark.parametrize("kind", ["silent", "trickling"])
def test_time_is_bounded_as_a_whole(place: Place, serve: Serve, command: str, kind: str) -> None:
    def handle(connection: socket.socket) -> None:
        connection.makefile("rb").read()
        while not ended.wait(0.1):
            if kind == "trickling":
                with suppress(OSError):
                    connection.sendall(b"0")

    ended = threading.Event()
    serve(handle)
    start = time.monotonic()
    try:
        done = place.hasty(command).run(command)
    finally:
        ended.set()
    assert 0.8 < time.monotonic() - start < 4.5
    if command == "DEL":
        assert done.returncode == 0
        assert place.queued() == ["0f9a-eth0"]
    else:
        assert refusal(done)["code"] == 50


def test_an_agent_that_is_busy_is_waited_for(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(str(place.socket))
        server.listen(0)
        first.connect(str(place.socket))  # the queue of one is full
        with subprocess.Popen([PLUGIN], stdin=-1, stdout=-1, env=place.environment("ADD")) as plugin:
            assert plugin.stdin is not None
            plugin.stdin.write(CONFIG)
            plugin.stdin.close()
            time.sleep(0.3)
            assert plugin.poll() is None
            server.accept()[0].close()
            connection, _ = server.accept()
            with connection:
                connection.makefile("rb").read()
                connection.sendall(b"0\n{}\n")
            assert plugin.wait(10) == 0


# -- never with one ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "version"),
    [(b'{"cniVersion": "0.4.0"}', "0.4.0"), (b"", "1.1.0"), (b"{", "1.1.0"), (b'{"cniVersion": "9"}', "1.1.0"), (b"[]", "1.1.0")],
)
def test_version(place: Place, config: bytes, version: str) -> None:
    done = place.run("VERSION", config)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"cniVersion": version, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}
    assert tuple(json.loads(done.stdout)["supportedVersions"]) == cni_request.VERSIONS


@pytest.mark.parametrize(
    ("command", "config", "more", "code"),
    [
        ("", CONFIG, {}, 4),
        ("add", CONFIG, {}, 4),
        ("UPDATE", CONFIG, {}, 4),
        ('"\x1b[31m\n', CONFIG, {}, 4),
        ("\udcff", CONFIG, {}, 4),
        ("ADD", CONFIG, {"CNI_ARGS": "a\nCNI_IFNAME=b"}, 4),
        ("ADD", CONFIG, {"CNI_X\nCNI_IFNAME": "b"}, 4),
        ("DEL", CONFIG, {"CNI_NETNS": "\n"}, 4),
        ("ADD", b"", {}, 6),
        ("DEL", b"", {}, 6),
        ("ADD", b"{", {}, 6),
        ("DEL", b"\xff\xfe\xff", {}, 6),
        ("DEL", b"[" * 500_000, {}, 6),
        ("DEL", b"[]", {}, 6),
    ],
)
def test_refused_without_asking(place: Place, command: str, config: bytes, more: dict[str, str], code: int) -> None:
    done = place.run(command, config, **more)
    known = command in cni_request._COMMANDS and config == CONFIG
    assert refusal(done, "1.0.0" if known and b"cniVersion" in config else "1.1.0")["code"] == code
    done.stdout.decode("ascii")  # nothing that a terminal or a log would act on
    assert b"\x1b" not in done.stdout
    assert place.queued() == []


@pytest.mark.parametrize("command", ["ADD", "DEL", "VERSION"])
def test_stdin_is_closed(place: Place, command: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" <&-', PLUGIN],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=place.environment(command),
        timeout=60,
        check=False,
    )
    if command == "VERSION":
        assert done.returncode == 0
    else:
        assert refusal(done, "1.1.0")["code"] == 6


def test_stdin_cant_be_read(place: Place) -> None:
    with Path("/proc/self/mem").open("rb") as unreadable:  # nothing is at address 0
        done = subprocess.run(
            [PLUGIN], stdin=unreadable, capture_output=True, env=place.environment("ADD"), timeout=60, check=False
        )
    assert refusal(done, "1.1.0")["code"] == 5


def test_stdout_is_closed(place: Place, serve: Serve) -> None:
    serve(answering(place, b"0\n{}\n"))
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" >&-', PLUGIN], input=CONFIG, env=place.environment("ADD"), timeout=60, check=False
    )
    assert done.returncode == 1  # nobody learnt the addresses


def test_twenty_pods_one_after_another(place: Place, serve: Serve) -> None:
    """Each asks once and is told what was answered to it. What that costs is printed: `make bench` measures a whole ADD."""

    def handle(connection: socket.socket) -> None:
        place.requests.append(connection.makefile("rb").read())
        connection.sendall(f"0\n{cni_request.parse(place.requests[-1]).key}\n".encode())

    serve(handle)
    spent = []
    for number in range(20):
        start = time.perf_counter()
        done = place.run("ADD", CNI_CONTAINERID=f"pod{number}")
        spent.append(time.perf_counter() - start)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"pod{number}/eth0\n".encode(), b"")
        assert len(place.requests) == number + 1
    assert place.queued() == []
    print(f"an ADD costs {statistics.median(spent) * 1000:.1f} ms, the agent's work not counted (median of {len(spent)})")
