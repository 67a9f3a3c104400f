"""Policies with ten thousand rules, as whoever may write one would: bounded memory and time, a clear refusal or what they say."""

import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from tests.unit.agent.fakes import described
from tests.unit.agent.test_policy_stage import WEB, labels

from pilus_agent.policy_stage import PolicyStage
from pilus_agent.sources.kubernetes import PolicyObject
from pilus_agent.tables import Tables
from pilus_api.identities import Identity
from pilus_api.settings import Settings

RULES: Final = 10_000
MEMORY: Final = 256 << 20  # bytes beyond what a test run has
SECONDS: Final = 30  # of a CPU; one or two are what these take


def _limited(work: Callable[[], None]) -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    work()


def bounded(work: Callable[[], None]) -> None:
    """In a process of its own, which is ended if it takes more."""
    child = multiprocessing.get_context("fork").Process(target=_limited, args=(work,))
    child.start()
    child.join()
    assert child.exitcode == 0


def port(number: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": number}


def each_its_own() -> list[dict[str, Any]]:
    """A peer and a port to each rule."""
    peers = ({"podSelector": {"matchLabels": {"app": f"app-{number}"}}} for number in range(RULES))
    return [{"from": [peer], "ports": [port(number + 1)]} for number, peer in enumerate(peers)]


def addresses() -> list[dict[str, Any]]:
    blocks = ({"ipBlock": {"cidr": f"10.{number >> 8}.{number & 255}.0/24"}} for number in range(RULES))
    return [{"from": [block], "ports": [port(number + 1)]} for number, block in enumerate(blocks)]


def all_meet() -> list[dict[str, Any]]:
    """Half mean everybody, and each of the others one more: as many classes, each with five thousand rules."""
    return [{"ports": [port(number + 1)]} for number in range(RULES // 2)] + each_its_own()[: RULES // 2]


def nested() -> list[dict[str, Any]]:
    """Prefixes within prefixes, each with an exception of its own."""
    blocks = (
        {"ipBlock": {"cidr": f"10.0.0.0/{8 + number % 8}", "except": [f"10.{number >> 8 & 1}.{number & 255}.0/24"]}}
        for number in range(RULES)
    )
    return [{"from": [block], "ports": [port(number + 1)]} for number, block in enumerate(blocks)]


@pytest.mark.parametrize(("rules", "held"), [(each_its_own, True), (addresses, False), (all_meet, False), (nested, False)])
def test_ten_thousand_rules_of_one_object(rules: Callable[[], list[dict[str, Any]]], held: bool) -> None:
    """`held`: they are in force; else that they are too large is told, and who is governed is closed."""
    raw = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "big", "namespace": "default", "uid": "uid", "generation": 1},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": rules()},
    }  # fmt: skip

    def work() -> None:
        stage = PolicyStage(Settings())
        stage.identity(WEB, labels("web"))
        for number in range(RULES // 2):
            stage.identity(Identity(1000 + number), labels(f"app-{number}"))
        stage.objects.put("knp", "default/big", PolicyObject(raw, "uid", 1))
        stage.decide({"web": labels("web")}, {"web": frozenset()}, {"web": WEB})
        stage.settle(Tables.of(described()["maps"]))
        stage.realised()
        (told,) = stage.acknowledgements("")
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_utime:.1f} s, {told['error'] or 'in force'}")
        assert told["realised"] == held
        assert held or told["error"].startswith("too large: ")
        assert held or told["error"].endswith("; pods have none to keep and are closed for ingress")

    bounded(work)
