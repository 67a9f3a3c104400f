"""Between any two rows that the agent writes to the real maps, packets are judged by what held before or by what holds after; also
where the agent dies there and another finishes.

Each step of the story says which of all probes pass once it is realised. A packet is asked for with a SYN, which is always decided
on, and as data of an open connection, which a stale conclusion may let through until the generations are raised and not longer.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
from tests.kernel import live
from tests.kernel.live import PROBES, Answers, LiveKernel, Probe, Prober
from tests.loaded import loaded
from tests.soak import longer
from tests.unit.agent.fakes import Killed, World, allow_from, no_cgroup, pod, policy, quicken, remote

from pilus_agent import writer
from pilus_agent.datapath.kernel import Kernel
from pilus_agent.diff.order import WRITE_ORDER
from pilus_maps import Datapath

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1200)]
Allowed = Callable[[Probe], bool]


@pytest.fixture(scope="module")
def datapath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datapath]:
    with loaded("writes", tmp_path_factory.mktemp("datapath"), {"PILUS_FLOWS_SIZE": 4096, "PILUS_EMBRYONIC_SIZE": 8192}) as made:
        yield made


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


# -- the story -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """`whole`: an endpoint's answers change together, for they change by its policy alone."""

    name: str
    tell: Callable[[World], object]
    allowed: Allowed
    whole: bool = True


def _put(name: str, spec: Mapping[str, Any] | None, generation: int = 1) -> Callable[[World], object]:
    return lambda world: world.wiring.put("cnp", f"default/{name}", policy(name, spec, generation) if spec is not None else None)


def _here(probe: Probe, *, web2: bool = False, data2: bool = False) -> bool:
    """Whether both ends are known at all."""
    return (web2 or "web2" not in (probe.source, probe.to)) and (data2 or probe.source != "data2")


def _data2(world: World) -> None:
    world.identity(310, live.DATA2)
    world.wiring.put("slices", "t", remote("data2", 310, "10.0.2.8"))


ADDRESSES = {
    "endpointSelector": {"matchLabels": {"app": "api"}},
    "ingress": [{"fromCIDRSet": [{"cidr": "198.51.100.0/24"}]}, *allow_from("api", "web", port=443)["ingress"]],
}
STEPS = (
    Step("nothing", lambda _: None, _here),
    Step("a policy", _put("a", allow_from("web", "api")),
         lambda p: _here(p) and (p.to != "web" or (p.source, p.port) == ("api", 80))),
    Step("another for the other", _put("b", allow_from("api", "web", "data")),
         lambda p: _here(p) and ((p.source, p.port) == ("api", 80) if p.to == "web" else p.port == 80)),
    Step("it is another altogether", _put("a", allow_from("web", "data", port=443), 2),
         lambda p: _here(p) and ((p.source, p.port) == ("data", 443) if p.to == "web" else p.port == 80)),
    Step("one more pod", lambda world: world.pod(3, live.WEB2),
         lambda p: _here(p, web2=True) and ((p.source, p.port) == ("data", 443) if p.to != "api" else p.port == 80), whole=False),
    Step("one more identity, which a policy selects",
         _data2,
         lambda p: (p.source.startswith("data") and p.port == 443) if p.to != "api" else p.port == 80, whole=False),
    Step("rules by address", _put("b", ADDRESSES, 2),
         lambda p: (p.source.startswith("data") and p.port == 443) if p.to != "api" else
                   (p.source.startswith("web") and p.port == 443)),
    Step("a pod becomes another", lambda world: world.wiring.put("pods", "default/web", pod("web", app="api")),
         lambda p: {"web2": p.source.startswith("data") and p.port == 443}.get(p.to, p.source == "web2" and p.port == 443),
         whole=False),
    Step("one policy less", _put("b", None),
         lambda p: p.to != "web2" or (p.source.startswith("data") and p.port == 443)),
    Step("a pod less", lambda world: world.wiring.put("attachments", "c-web2/eth0", None),
         lambda p: _here(p, data2=True), whole=False),
)  # fmt: skip


def expected(step: Step) -> Answers:
    return {probe: step.allowed(probe) for probe in PROBES}


class Watch:
    """What packets meet, against what held before the step and what holds after it."""

    def __init__(self, prober: Prober, before: Answers, after: Answers, *, whole: bool) -> None:
        self._prober = prober
        self._before, self._after = before, after
        self._whole = whole
        self._switched: set[str] = set()
        self.looks = 0

    def look(self) -> None:
        self.looks += 1
        self.judge(self._prober.all(PROBES))
        open_now = self._prober.all(PROBES, "A")
        leaked = [probe for probe, passes in open_now.items() if passes and not self._before[probe] and not self._after[probe]]
        assert not leaked, f"of open connections more passes than before or after: {leaked}"

    def judge(self, answers: Answers) -> None:
        for probe, passes in answers.items():
            assert passes in (self._before[probe], self._after[probe]), f"{probe}: {passes}, neither as before nor as after"
        if not self._whole:
            return
        for to in live.PODS:
            own = [probe for probe in PROBES if probe.to == to]
            got, old, new = ([held[probe] for probe in own] for held in (answers, self._before, self._after))
            if old == new:
                continue
            assert got in (old, new), f"{to} is judged by a mixture: {dict(zip(own, got, strict=True))}"
            assert to not in self._switched or got == new, f"{to} went back to what held before"
            if got == new:
                self._switched.add(to)


async def _through(prober: Prober, made: World, steps: int) -> int:
    """The steps one after the other, each looked at from write to write; how often."""
    kernel = made.kernel
    assert isinstance(kernel, LiveKernel)
    before = dict.fromkeys(PROBES, False)
    looks = 0
    for number, step in enumerate(STEPS[:steps]):
        after = expected(step)
        watch = Watch(prober, before, after, whole=step.whole and number > 0)
        kernel.between = watch.look
        step.tell(made)
        if number == 0:
            made.sync()
        await live.settled(made)
        watch.look()
        for flags in ("S", "A"):
            assert prober.all(PROBES, flags) == after, f"{step.name}: {flags}"
        looks += watch.looks
        before = after
    return looks


async def test_between_any_two_writes_old_or_new(datapath: Datapath, prober: Prober) -> None:
    live.empty(datapath)
    kernel = LiveKernel(datapath)
    made = live.world(kernel)
    async with made.running():
        looks = await _through(prober, made, len(STEPS))
    assert kernel.writes > 100
    print(f"{kernel.writes} rows written, {looks} looks of {2 * len(PROBES)} packets each")


async def _until_killed(made: World, prober: Prober) -> int | None:
    """The step in which it died, None if it lived through all."""
    reached = 0
    task = asyncio.create_task(made.wiring.run())
    try:
        for number, step in enumerate(STEPS):
            reached = number
            step.tell(made)
            if number == 0:
                made.sync()
            done = asyncio.create_task(live.settled(made))
            await asyncio.wait({done, task}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                done.cancel()
                await asyncio.gather(done, return_exceptions=True)
                with pytest.raises(BaseExceptionGroup) as died:
                    task.result()
                assert died.group_contains(Killed)
                return reached
            done.result()
        return None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_killed_after_any_write(datapath: Datapath, prober: Prober) -> None:
    """It dies after its first row, its second, ... (a short run: every third, another third each time of the day); its heir, told
    the same, brings the kernel to what is wanted, and on the way nothing passes that neither state lets pass."""
    stride = longer(1, 3)
    lives = int(time.time()) % stride
    killed = 0
    while True:
        live.empty(datapath)
        first = LiveKernel(datapath)
        first.lives = lives
        with no_cgroup():
            reached = await _until_killed(live.world(first), prober)
        if reached is None:
            break
        killed += 1
        await _inherited(datapath, prober, first, reached, lives)
        lives += stride
    assert killed > 100 // stride
    print(f"killed {killed} times, after every {stride}. row")


async def _inherited(datapath: Datapath, prober: Prober, first: LiveKernel, reached: int, lives: int) -> None:
    before = expected(STEPS[reached - 1]) if reached else dict.fromkeys(PROBES, False)
    after = expected(STEPS[reached])
    second = LiveKernel(datapath, first.links)
    heir = live.world(second)
    for step in STEPS[: reached + 1]:
        step.tell(heir)
    watch = Watch(prober, before, after, whole=False)
    watch.look()
    second.between = watch.look
    heir.sync()
    async with heir.running():
        await live.settled(heir)
        for table, tracker in heir.tables.trackers.items():
            assert second.read(table) == tracker.wanted, f"killed after {lives} rows: {table}"
        for flags in ("S", "A"):
            assert prober.all(PROBES, flags) == after, f"killed after {lives} rows, in {STEPS[reached].name}: {flags}"


def _never(_: LiveKernel, __: Iterable[int]) -> None: ...


MUTANTS: dict[str, tuple[object, str, object]] = {
    "endpoints before their policy": (writer, "WRITE_ORDER", ("endpoints", *(one for one in WRITE_ORDER if one != "endpoints"))),
    "port tables last": (writer, "WRITE_ORDER", (*(one for one in WRITE_ORDER if one != "verdicts"), "verdicts")),
    "no generation raised": (LiveKernel, "raise_generations", _never),
}


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_wrong_order_would_be_seen(datapath: Datapath, prober: Prober, mutant: str) -> None:
    """The tests above can fail."""
    live.empty(datapath)
    made = live.world(LiveKernel(datapath))
    with patch.object(*MUTANTS[mutant]), pytest.raises((AssertionError, BaseExceptionGroup)) as seen:
        async with made.running():
            await _through(prober, made, 5)
    assert seen.type is AssertionError or seen.group_contains(AssertionError)


# -- under load ----------------------------------------------------------------------------------------------------------------


class Load(threading.Thread):
    """Packets one after the other, as fast as can be asked, until told to stop. Nobody else may ask meanwhile: a tunnel packet's
    sender is written to every CPU's scratch. `changes`: probe -> how often its fate changed."""

    def __init__(self, prober: Prober, never: tuple[Probe, ...], changing: tuple[Probe, ...]) -> None:
        super().__init__()
        self._prober, self._never, self._changing = prober, never, changing
        self._stop_now = threading.Event()
        self.changes = dict.fromkeys(changing, 0)
        self.last: dict[Probe, bool] = {}
        self.leaks: list[Probe] = []
        self.packets = 0
        self.seconds = 0.0
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  # told by the test's own thread
            self.failed = error

    def _run(self) -> None:
        started = time.monotonic()
        with self._prober.here():
            while not self._stop_now.is_set():
                for probe in self._changing:
                    passes = self._prober.passes(probe)
                    if self.last.setdefault(probe, passes) != passes:
                        self.changes[probe] += 1
                        self.last[probe] = passes
                self.leaks += [probe for probe in self._never if self._prober.passes(probe)]
                self.packets += len(self._never) + len(self._changing)
        self.seconds = time.monotonic() - started

    async def judged(self) -> None:
        """A few more packets."""
        packets = self.packets
        async with asyncio.timeout(10):
            while self.packets < packets + 20:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    def finish(self) -> None:
        self._stop_now.set()
        self.join(10)
        if self.failed:
            raise self.failed


class FlatKernel(LiveKernel):
    """Writes as the product does: in batches, few rows at once, many in a thread of its own."""

    def __init__(self, datapath: Datapath) -> None:
        super().__init__(datapath)
        self._real = Kernel(datapath)
        self.few = Kernel.few

    async def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._real.call(function, *args, **kwargs)

    def write(self, table: str, rows: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        return self._real.write(table, rows)


async def test_a_policy_that_changes_under_load_is_the_old_or_the_new(datapath: Datapath, prober: Prober) -> None:
    """Thousands of packets a second while a policy turns into its opposite: each kind of packet changes its fate once a turn, and
    what neither allows never passes."""
    turns = longer(2000, 60)
    live.empty(datapath)
    kernel = FlatKernel(datapath)
    made = live.world(kernel)
    one, other = Probe("api", "web", 80), Probe("data", "web", 443)
    never = (Probe("api", "web", 443), Probe("data", "web", 80))
    specs = (allow_from("web", "api"), allow_from("web", "data", port=443))
    drops = {name: number for name, number in datapath.enum("pilus_drop").items() if name != "PILUS_DROP_POLICY"}
    async with made.running():
        made.sync()
        made.wiring.put("cnp", "default/a", policy("a", specs[0]))
        await live.settled(made)
        before = counted(datapath)
        load = Load(prober, never, (one, other))
        load.start()
        try:
            await load.judged()
            for turn in range(1, turns + 1):
                made.wiring.put("cnp", "default/a", policy("a", specs[turn % 2], turn + 1))
                await made.realise()
                await load.judged()
                assert load.last == {one: turn % 2 == 0, other: turn % 2 == 1}
        finally:
            load.finish()
        after = counted(datapath)
    assert load.leaks == []
    assert load.changes == {one: turns, other: turns}
    others = {name for name, number in drops.items() if after.get(number, 0) != before.get(number, 0)}
    assert others == set(), "a policy was missing or not whole for a moment"
    print(f"{turns} turns, {load.packets} packets judged meanwhile, {load.packets / load.seconds:.0f} a second")


def counted(datapath: Datapath) -> dict[int, int]:
    """Packets by reason, all hooks and CPUs."""
    found: dict[int, int] = {}
    for index, cpus in datapath.map("counters").items():
        found[index % 256] = found.get(index % 256, 0) + sum(one["packets"] for one in cpus)
    return found
