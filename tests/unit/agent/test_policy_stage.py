"""From policy objects to rows: numbers, changes, and what becomes of an object that makes no sense."""

import importlib.util
from collections.abc import Mapping
from copy import deepcopy
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from pilus_agent.facts import RemoteEndpoint
from pilus_agent.policy_stage import PolicyStage
from pilus_agent.sources.kubernetes import PolicyObject
from pilus_agent.tables import TableLayout, Tables
from pilus_api.decode import decode
from pilus_api.identities import RESERVED, Identity
from pilus_api.labels import Label, Labels, canonical
from pilus_api.rule_numbers import default_deny
from pilus_api.rules import Direction
from pilus_api.settings import Settings
from pilus_maps.layout import Layout

EGRESS = 1
WEB, CLIENT, STRANGER = Identity(300), Identity(301), Identity(302)


def number(size: int, name: str = "", count: int = 0, network: bool = False) -> dict[str, Any]:
    return {"name": name, "offset": 0, "size": size, "count": count, "network": network, "fields": None}


def labels(app: str) -> Labels:
    return canonical([
        Label("k8s", "app", app), Label("k8s", "io.kubernetes.pod.namespace", "default"),
        Label("k8s", "io.cilium.k8s.policy.cluster", "default"),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def description() -> Mapping[str, Any]:
    path = Path(__file__).parents[3] / "nodeagent/pilus_agent/datapath/loader.py"
    spec = importlib.util.spec_from_file_location("loader", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    described: Mapping[str, Any] = module.describe(Path(__file__).parents[3] / "bpf", Path("/nowhere"), {})[1]
    return described


@pytest.fixture
def tables(description: Mapping[str, Any]) -> Tables:
    return Tables.of(description["maps"])


@pytest.fixture
def stage() -> PolicyStage:
    made = PolicyStage(Settings())
    for identity, app in ((WEB, "web"), (CLIENT, "client"), (STRANGER, "stranger")):
        made.identity(identity, labels(app))
    return made


def policy(name: str, spec: Mapping[str, Any], generation: int = 1) -> PolicyObject:
    raw = {"metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "generation": generation}, "spec": spec}
    return PolicyObject(raw, f"uid-{name}", generation)


LET_CLIENT = {
    "endpointSelector": {"matchLabels": {"app": "web"}},
    "ingress": [
        {"fromEndpoints": [{"matchLabels": {"app": "client"}}], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}
    ],
}


def decide(stage: PolicyStage, tables: Tables) -> Any:
    found = stage.decide({"web": labels("web")}, {"web": frozenset()}, {"web": WEB})["web"]
    stage.settle(tables)
    return found


def held(tables: Tables, table: str) -> dict[Any, Any]:
    layout = tables.layouts[table]

    def plain(value: Any) -> Any:
        return tuple(value.values()) if isinstance(value, dict) else value

    return {plain(layout.key.decode(key)): layout.value.decode(value) for key, value in tables.trackers[table].wanted.items()}


def write_all(tables: Tables) -> None:
    for tracker in tables.trackers.values():
        tracker.wrote(dict(tracker.updates))
        tracker.removed(set(tracker.deletes))


def test_without_policies_nothing_is_enforced(stage: PolicyStage, tables: Tables) -> None:
    found = decide(stage, tables)
    assert not found.ingress_enforced
    assert not found.egress_enforced
    assert stage.number(found.policy) == 0
    assert not held(tables, "policies")


def test_a_policy_becomes_rows_that_point_at_each_other(stage: PolicyStage, tables: Tables) -> None:
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    found = decide(stage, tables)
    assert found.ingress_enforced
    own = stage.number(found.policy)
    row = held(tables, "policies")[own]
    assert row["complete"] == 1
    assert row["hash"] == found.policy
    peers = held(tables, "peers")
    client = peers[own, 0, CLIENT]
    assert (own, 0, STRANGER) not in peers
    verdicts = {key[1]: value for key, value in held(tables, "verdicts").items() if value["rule"]}
    assert set(verdicts) == {client["table"]}
    assert verdicts[client["table"]]["decision"] == 1


def test_a_new_identity_of_a_known_class_costs_one_row(stage: PolicyStage, tables: Tables) -> None:
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    decide(stage, tables)
    write_all(tables)
    stage.identity(Identity(400), canonical([*labels("client"), Label("k8s", "pod", "1")]))
    decide(stage, tables)
    assert {name: len(tracker.updates) for name, tracker in tables.trackers.items() if tracker.updates} == {"peers": 1}


def test_an_empty_list_where_none_was_is_a_change(stage: PolicyStage, tables: Tables) -> None:
    """Of peers no list is anybody and an empty one nobody; as JSON, in what is held against it, and in what is enforced."""
    ports = '"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]'

    def enforced(peers: str) -> set[int]:
        spec = decode(f'{{"endpointSelector": {{}}, "ingress": [{{{peers}{ports}}}]}}'.encode())
        stage.objects.put("cnp", "default/let", deepcopy(policy("let", spec)))
        own = stage.number(decide(stage, tables).policy)
        allowed = {key[1] for key, value in held(tables, "verdicts").items() if value["rule"] and value["decision"] == 1}
        classes = {key[2]: value["table"] for key, value in held(tables, "peers").items() if key[:2] == (own, 0)}
        default = held(tables, "policies")[own]["table"][0]
        return {who for who in (WEB, CLIENT, STRANGER) if classes.get(who, default) in allowed}

    for _ in range(2):
        assert enforced("") == {WEB, CLIENT, STRANGER}
        assert enforced('"fromEndpoints": [], ') == set()


OUT_TO_GROUP = {"endpointSelector": {}, "egress": [{"toCIDRSet": [{"cidrGroupRef": "offices"}]}]}


def test_a_group_of_prefixes_changes_under_its_policies(stage: PolicyStage, tables: Tables) -> None:
    """The policy is told of while there is no such group; another content of the group is another policy, switched to whole."""

    def prefixes() -> set[bytes]:
        own = stage.number(decide(stage, tables).policy)
        return {bytes(key[-1][:4]) for key in held(tables, "cidrs") if key[1] == own}

    stage.objects.put("cnp", "default/out", policy("out", OUT_TO_GROUP))
    assert prefixes() == set()
    assert stage.acknowledgements("")[0]["unenforced"] == [
        "spec.egress[0].toCIDRSet[0].cidrGroupRef (there is no CiliumCIDRGroup offices, or it can't be read)"
    ]
    stage.objects.put("cidrgroups", "offices", (ip_network("192.0.2.0/24"), ip_network("198.51.100.0/24")))
    first = decide(stage, tables).policy
    assert prefixes() == {bytes((192, 0, 2, 0)), bytes((198, 51, 100, 0))}
    assert stage.acknowledgements("")[0]["unenforced"] == []
    stage.objects.put("cidrgroups", "offices", (ip_network("192.0.2.0/24"),))
    assert decide(stage, tables).policy != first
    assert prefixes() == {bytes((192, 0, 2, 0))}
    stage.objects.put("cidrgroups", "offices", None)
    assert prefixes() == set()


def test_an_address_rule_that_covers_pods_is_noted_and_in_force(stage: PolicyStage, tables: Tables) -> None:
    """Pod ranges come later than policies, and go; the note is no field that is not in force."""
    spec = {"endpointSelector": {}, "egress": [{"toEntities": ["host"]}, {"toCIDR": ["10.0.0.0/8"]}]}
    stage.objects.put("cnp", "default/out", policy("out", spec))
    decide(stage, tables)
    stage.realised()

    def told() -> Any:
        (found,) = stage.acknowledgements("")
        assert found["realised"]
        assert found["unenforced"] == []
        return found["notes"]

    assert told() == []
    stage.pod_ranges([ip_network("10.0.1.0/24"), ip_network("10.0.2.0/24")])
    (note,) = told()
    assert note.startswith("spec.egress[1]: 10.0.0.0/8 covers pods' addresses (10.0.1.0/24)")
    stage.pod_ranges([ip_network("192.0.2.0/24")])
    assert told() == []
    stage.pod_ranges([ip_network("10.0.1.0/24")])
    stage.objects.put("cnp", "default/out", None)
    decide(stage, tables)
    assert stage.acknowledgements("") == []


def test_a_policy_that_goes_takes_its_rows_along(stage: PolicyStage, tables: Tables) -> None:
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    decide(stage, tables)
    write_all(tables)
    stage.objects.put("cnp", "default/let", None)
    decide(stage, tables)
    write_all(tables)
    stage.swept()
    assert all(not tracker.held for tracker in tables.trackers.values())


def test_an_object_that_makes_no_sense_is_closed_where_it_can_not_be_read(stage: PolicyStage, tables: Tables) -> None:
    """Whatever it said before: an agent that has just begun knows nothing of that."""
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    assert decide(stage, tables).ingress_enforced
    stage.objects.put("cnp", "default/let", policy("let", {"egress": [{}]}, generation=2))
    found = decide(stage, tables)
    assert (found.ingress_enforced, found.egress_enforced) == (False, True)
    told = stage.acknowledgements("")
    assert [(one["generation"], one["realised"]) for one in told] == [(2, False)]
    assert "endpointSelector" in told[0]["error"]
    assert any("endpointSelector" in check["message"] for check in stage.checks())


def test_what_may_not_be_meant_is_noted(stage: PolicyStage) -> None:
    held = deepcopy(LET_CLIENT) | {"egress": [{"toPorts": [{"ports": [{"port": "90", "endPort": 80}]}]}]}
    held["endpointSelector"]["matchLabels"]["k8s:io.kubernetes.pod.namespace"] = "other"  # type: ignore[index]
    stage.objects.put("cnp", "default/let", policy("let", held))
    (told,) = stage.acknowledgements("")
    selector, port = told["notes"]
    assert selector.startswith("spec.endpointSelector.matchLabels.k8s:io.kubernetes.pod.namespace: is overridden")
    assert port == "spec.egress[0].toPorts[0].ports[0].endPort: is below port 90: that one port is meant"
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT, generation=2))
    (told,) = stage.acknowledgements("")
    assert told["notes"] == []


def test_a_restarted_agent_recognises_what_the_kernel_holds(
    stage: PolicyStage, tables: Tables, description: Mapping[str, Any]
) -> None:
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    decide(stage, tables)
    write_all(tables)
    again = PolicyStage(Settings())
    # In another order, and with other numbers to be given, were they given anew.
    for identity, app in ((STRANGER, "stranger"), (CLIENT, "client"), (WEB, "web")):
        again.identity(identity, labels(app))
    fresh = Tables.of(description["maps"])
    for name, tracker in tables.trackers.items():
        fresh.trackers[name].hold_all(tracker.held)
    again.restore({name: tracker.held for name, tracker in fresh.trackers.items()}, fresh)
    again.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    decide(again, fresh)
    changed = {name: tracker for name, tracker in fresh.trackers.items() if not tracker.settled}
    assert not changed.keys() - {"peers", "policies"}, "a port table was not recognised"
    assert not any(tracker.deletes for tracker in changed.values()), "a policy was not recognised"


@pytest.mark.parametrize(("mode", "enforced"), [("default", False), ("always", True), ("never", False)])
def test_modes_of_enforcement(mode: Any, enforced: bool, tables: Tables) -> None:
    stage = PolicyStage(Settings(enable_policy=mode))
    stage.identity(WEB, labels("web"))
    found = decide(stage, tables)
    assert (found.ingress_enforced, found.egress_enforced) == (enforced, enforced)
    if enforced:
        assert stage.number(found.policy), "enforced without a policy would drop with the wrong reason"


def test_a_pod_without_identity_is_closed_whatever_people_wrote(stage: PolicyStage, tables: Tables) -> None:
    found = stage.decide({"new": RESERVED[Identity(5)]}, {"new": frozenset()}, {"new": Identity(5)})["new"]
    assert found.ingress_enforced
    assert found.egress_enforced


def test_an_endpoints_policy_in_words(stage: PolicyStage, tables: Tables) -> None:
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    decide(stage, tables)
    told = stage.explain("web", {WEB: labels("web"), CLIENT: labels("client"), **RESERVED})
    assert told["egress"] == {"enforced": False, "classes": []}
    classes = {" ".join(one["peers"]): one["verdicts"] for one in told["ingress"]["classes"]}
    client = next(verdicts for peers, verdicts in classes.items() if "app=client" in peers)
    assert client[0]["words"] == "TCP 80"
    assert client[0]["decision"] == "allow"
    assert "default/let" in client[0]["rule"]
    assert classes["everybody else"] == [{"words": "everything", "decision": "deny", "rule": None, "passed": None}]


def test_rules_have_texts_for_events(stage: PolicyStage, tables: Tables) -> None:
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    found = decide(stage, tables)
    texts = stage.rules()
    assert texts[str(stage.number(found.policy) << 16 | 1)] == "CiliumNetworkPolicy default/let spec.ingress[0]"
    assert len(texts) == 2, "and the default deny"


def test_layouts_are_those_of_the_programs(tables: Tables) -> None:
    assert isinstance(tables.layouts["verdicts"], TableLayout)
    assert Layout({"size": 4, "fields": [number(4)]}).bare


def moded(mode: object, name: str = "let") -> PolicyObject:
    made = policy(name, LET_CLIENT)
    made.raw["metadata"]["annotations"] = {"pilus.io/mode": mode}
    return made


@pytest.mark.parametrize(
    ("of_policy", "of_namespace", "everywhere", "audited"),
    [
        (None, "", False, False),
        ("audit", "", False, True),
        (None, "audit", False, True),
        ("enforce", "audit", True, False),
        ("audit", "enforce", False, True),
        (None, "enforce", True, False),
        (None, "", True, True),
        ("Audit", "audit", True, False),  # what is no mode opens nothing
        (None, "no", True, False),
        ("", "audit", False, True),  # nothing is said by it
        ("", "", True, True),
    ],
)
def test_modes(tables: Tables, of_policy: object, of_namespace: str, everywhere: bool, audited: bool) -> None:
    stage = PolicyStage(Settings(policy_audit_mode=everywhere))
    for number, name in ((WEB, "web"), (CLIENT, "client")):
        stage.identity(number, labels(name))
    stage.objects.namespace("default", of_namespace)
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT) if of_policy is None else moded(of_policy))
    found = decide(stage, tables)
    assert bool(found.audit) == audited
    assert found.ingress_enforced != audited
    (told,) = stage.acknowledgements("")
    assert told["audited"] == audited
    wrong = of_policy == "Audit" or of_namespace == "no"
    assert bool(told["unenforced"]) == wrong
    (shown,) = stage.views({"web": 1})
    assert shown["mode"] == ("audit" if audited else "enforce")
    stage.objects.namespace("default", "enforce")
    assert bool(decide(stage, tables).audit) == (of_policy == "audit")


def test_audit_changes_nothing_but_what_is_told(stage: PolicyStage, tables: Tables) -> None:
    """What the audited policy would allow is not allowed for it, and what an enforced one denies stays denied."""
    other = {
        "endpointSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "stranger"}}]}],
    }
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    alone = decide(stage, tables)
    audited = policy("other", other)
    audited.raw["metadata"]["annotations"] = {"pilus.io/mode": "audit"}
    stage.objects.put("cnp", "default/other", audited)
    found = decide(stage, tables)
    assert (found.policy, found.ingress_enforced) == (alone.policy, True)
    assert found.audit not in (b"", found.policy)
    assert stage.number(found.audit) != stage.number(found.policy) != 0


def test_what_an_audited_policy_requires_binds_no_enforced_one(stage: PolicyStage, tables: Tables) -> None:
    demand = policy("other", {"endpointSelector": {}, "ingress": [{"fromRequires": [{"matchLabels": {"app": "stranger"}}]}]})
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    alone = decide(stage, tables)
    demand.raw["metadata"]["annotations"] = {"pilus.io/mode": "audit"}
    stage.objects.put("cnp", "default/other", demand)
    assert decide(stage, tables).policy == alone.policy
    enforced = deepcopy(demand)
    enforced.raw["metadata"]["annotations"] = {}
    stage.objects.put("cnp", "default/other", enforced)
    assert decide(stage, tables).policy != alone.policy


def test_a_pod_with_labels_that_are_known_changes_no_table_and_a_new_identity_one_row(stage: PolicyStage, tables: Tables) -> None:
    """Pods come and go by the hundred; what one costs must not depend on how many policies there are."""
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    decide(stage, tables)
    write_all(tables)
    pods = {name: labels("web") for name in ("web", "web-2")}
    found = stage.decide(pods, dict.fromkeys(pods, frozenset()), dict.fromkeys(pods, WEB))
    stage.settle(tables)
    assert found["web"] == found["web-2"]
    assert not any(tracker.updates or tracker.deletes for tracker in tables.trackers.values())
    stage.identity(Identity(303), canonical([*labels("client"), Label("k8s", "pod", "new")]))
    stage.decide(pods, dict.fromkeys(pods, frozenset()), dict.fromkeys(pods, WEB))
    stage.settle(tables)
    assert {name: len(tracker.updates) for name, tracker in tables.trackers.items() if tracker.updates} == {"peers": 1}
    assert not any(tracker.deletes for tracker in tables.trackers.values())


def test_who_denies_by_default_has_a_name(stage: PolicyStage, tables: Tables) -> None:
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    found = decide(stage, tables)
    default = default_deny(stage.number(found.policy), Direction.INGRESS)
    assert stage.rules()[str(default)] == "default deny of CiliumNetworkPolicy default/let"
    assert str(default + 1) not in stage.rules(), "egress is open"


@pytest.mark.parametrize("read", [True, False])
def test_without_network_policies_those_of_cilium_stand(tables: Tables, read: bool) -> None:
    """Where the setting is false a NetworkPolicy governs nobody, and nothing is told of it."""
    stage = PolicyStage(Settings(enable_k8s_networkpolicy=read))
    stage.identity(WEB, labels("web"))
    stage.objects.put("knp", "default/closed", policy("closed", {"podSelector": {}, "policyTypes": ["Egress"]}))
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    found = decide(stage, tables)
    assert (found.ingress_enforced, found.egress_enforced) == (True, read)
    governed = {(view["kind"], view["name"]): view["endpoints"] for view in stage.views({"web": 1})}
    closed = {("NetworkPolicy", "closed"): [1]} if read else {}
    assert governed == {("CiliumNetworkPolicy", "let"): [1], **closed}
    stage.objects.put("knp", "default/closed", None)
    assert not decide(stage, tables).egress_enforced


def test_an_admin_policy_goes_before_and_passes_on(stage: PolicyStage, tables: Tables) -> None:
    def admin(action: str) -> PolicyObject:
        rule = {"action": action, "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "client"}}}}]}
        spec = {"priority": 5, "subject": {"namespaces": {}}, "ingress": [rule]}
        return PolicyObject({"metadata": {"name": "first", "uid": "uid-first", "generation": 1}, "spec": spec}, "uid-first", 1)

    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    for action, decision, passed in (
        ("Allow", "allow", None),
        ("Deny", "deny", None),
        ("Pass", "allow", "AdminNetworkPolicy first spec.ingress[0]"),
    ):
        stage.objects.put("anp", "first", admin(action))
        decide(stage, tables)
        shown = stage.explain("web", {CLIENT: labels("client")})["ingress"]["classes"]
        (client,) = [one for one in shown if any(peer.startswith(str(CLIENT)) for peer in one["peers"])]
        tcp = next(one for one in client["verdicts"] if one["words"] == "TCP 80" or action != "Pass")
        assert (tcp["decision"], tcp["passed"]) == (decision, passed)


def test_other_nodes_pods_have_named_ports_too(stage: PolicyStage, tables: Tables) -> None:
    """All that the pods of an identity call so, here and in every slice; what one slice loses, another may still say."""

    def slice_of(*ports: int) -> list[RemoteEndpoint]:
        return [
            RemoteEndpoint(ip_address("10.0.2.7"), CLIENT, None, "default/far", frozenset({("http", 6, port)})) for port in ports
        ]

    def allowed() -> set[int]:
        own = stage.number(decide(stage, tables).policy)
        peer = held(tables, "peers").get((own, EGRESS, CLIENT), {"table": None})
        return {int(key[-1]) for key, row in held(tables, "verdicts").items() if key[1] == peer["table"] and row["rule"]}

    spec = {
        "endpointSelector": {"matchLabels": {"app": "web"}},
        "egress": [
            {"toEndpoints": [{"matchLabels": {"app": "client"}}], "toPorts": [{"ports": [{"port": "http", "protocol": "TCP"}]}]}
        ],
    }
    stage.objects.put("cnp", "default/a", policy("a", spec))
    assert allowed() == set()
    stage.elsewhere("s", slice_of(80, 8080))
    stage.elsewhere("t", slice_of(8080))
    assert allowed() == {80, 8080}
    stage.elsewhere("s", ())
    assert allowed() == {8080}
    stage.elsewhere("t", ())
    assert allowed() == set()


def test_pods_are_named_where_a_policy_is_not_in_force_for_them(stage: PolicyStage, tables: Tables) -> None:
    """A few of each node; and none where all of it is."""
    many = {f"c{number}/eth0": {"namespace": "default", "name": f"web-{number}", "uid": f"u{number}"} for number in range(20)}
    stage.objects.put("cnp", "default/out", policy("out", OUT_TO_GROUP))
    stage.decide(dict.fromkeys(many, labels("web")), dict.fromkeys(many, frozenset()), dict.fromkeys(many, WEB))
    (told,) = stage.acknowledgements("", many)
    assert (told["selected"], len(told["pods"])) == (20, 16)
    assert {pod["uid"] for pod in told["pods"]} < {pod["uid"] for pod in many.values()}
    stage.objects.put("cidrgroups", "offices", (ip_network("192.0.2.0/24"),))
    stage.decide(dict.fromkeys(many, labels("web")), dict.fromkeys(many, frozenset()), dict.fromkeys(many, WEB))
    assert stage.acknowledgements("", many)[0]["pods"] == []


BY_NAME: dict[str, Any] = {
    "endpointSelector": {"matchLabels": {"app": "web"}},
    "egress": [
        {"toEndpoints": [{}], "toPorts": [{"ports": [{"port": "http", "protocol": "TCP"}]}]},
        {"toCIDR": ["192.0.2.0/24"], "toPorts": [{"ports": [{"port": "http", "protocol": "TCP"}, {"port": "80"}]}]},
    ],
    "egressDeny": [{"toCIDR": ["198.51.100.0/24"], "toPorts": [{"ports": [{"port": "dns", "protocol": "UDP"}]}]}],
}


def test_a_named_port_of_an_address_is_told_as_not_in_force(stage: PolicyStage, tables: Tables) -> None:
    """And goes with what says it; of pods, and without addresses, it is in force."""
    stage.objects.put("cnp", "default/out", policy("out", BY_NAME))
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    decide(stage, tables)
    stage.realised()
    missing = [
        "spec.egressDeny[0] (an address has no named port dns)",
        "spec.egress[1] (an address has no named port http)",
    ]
    pods = {"web": {"namespace": "default", "name": "web", "uid": "u"}}
    let, out = stage.acknowledgements("", pods)
    assert (let["unenforced"], let["pods"]) == ([], [])
    assert sorted(out["unenforced"]) == sorted(missing)
    assert (out["realised"], out["pods"]) == (True, [pods["web"]])
    messages = {view["name"]: view["message"] for view in stage.views({"web": 1})}
    assert messages["let"] == ""
    assert all(each in messages["out"] for each in missing)
    stage.objects.put("cnp", "default/out", policy("out", {**BY_NAME, "egress": BY_NAME["egress"][:1], "egressDeny": []}, 2))
    decide(stage, tables)
    assert [told["unenforced"] for told in stage.acknowledgements("")] == [[], []]


def test_with_enable_policy_never_every_policy_says_so(tables: Tables) -> None:
    """`kubectl get cnp` must not show as enforced what is not; pods get no Event for it."""
    stage = PolicyStage(Settings(enable_policy="never"))
    stage.identity(WEB, labels("web"))
    (check,) = stage.checks()
    assert (check["state"], check["message"]) == ("ok", "enable-policy is never: nothing is restricted")
    spec: dict[str, Any] = {"endpointSelector": {}, "ingress": [{"fromGroups": [{}]}]}
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    stage.objects.put("cnp", "default/group", policy("group", spec))
    assert not decide(stage, tables).ingress_enforced
    stage.realised()
    group, let = stage.acknowledgements("", {"web": {"namespace": "default", "name": "web", "uid": "u"}})
    assert let["unenforced"] == ["enable-policy is never: nothing is restricted"]
    assert group["unenforced"] == [*let["unenforced"], "spec.ingress[0].fromGroups"]
    assert [(told["realised"], told["error"], told["pods"]) for told in (group, let)] == [(False, "", [])] * 2
    assert [(view["realised"], view["message"]) for view in stage.views({"web": 1})] == [
        (False, "enable-policy is never: nothing is restricted")
    ] * 2
    (check,) = stage.checks()
    assert check["state"] == "degraded"
    assert "there are policies (2)" in check["message"]
    assert PolicyStage(Settings()).checks() == []


def huge(section: str = "ingress", field: str = "fromCIDR") -> dict[str, Any]:
    """Web's, with more rows than a policy may have."""

    def ports(rule: int) -> list[dict[str, Any]]:
        starts = range(1000 + rule, 60000, 1500)
        return [{"ports": [{"port": str(first), "endPort": first + 777, "protocol": "TCP"} for first in starts]}]

    elements = [{field: [f"10.9.{rule}.0/24"], "toPorts": ports(rule)} for rule in range(150)]
    return {"endpointSelector": {"matchLabels": {"app": "web"}}, section: elements}


def test_what_holds_in_place_of_a_policy_that_is_too_large_is_told(stage: PolicyStage, tables: Tables) -> None:
    """A pod that had one keeps it, and another is closed: one where the agent has just begun, or which is new."""

    def decided(*pods: str) -> str:
        for pod in pods:
            assert stage.decide(dict.fromkeys(pods, labels("web")), dict.fromkeys(pods, frozenset()), dict.fromkeys(pods, WEB))[pod]
        (told,) = stage.acknowledgements("")
        assert not told["realised"]
        return str(told["error"]).partition("; ")[2]

    stage.objects.put("cnp", "default/let", policy("let", huge()))
    assert decided("a") == "pods have none to keep and are closed for ingress"
    assert decided("a", "b") == "pods have none to keep and are closed for ingress"
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT, 2))
    stage.decide({"a": labels("web")}, {"a": frozenset()}, {"a": WEB})
    stage.objects.put("cnp", "default/let", policy("let", huge("egress", "toCIDR"), 3))
    refused = "identities that are new to this node are refused meanwhile"
    assert decided("a") == f"pods keep the last version that was not; {refused}"
    assert decided("a", "b") == f"pods keep the last version that was not; those that have none are closed for egress; {refused}"


def test_a_policy_in_audit_mode_that_is_too_large_is_no_other_one_s_trouble(stage: PolicyStage, tables: Tables) -> None:
    audited = policy("other", huge())
    audited.raw["metadata"]["annotations"] = {"pilus.io/mode": "audit"}
    stage.objects.put("cnp", "default/let", policy("let", LET_CLIENT))
    stage.objects.put("cnp", "default/other", audited)
    assert decide(stage, tables).ingress_enforced
    stage.realised()
    let, other = stage.acknowledgements("")
    assert (let["realised"], let["error"]) == (True, "")
    assert not other["realised"]
    assert other["error"].startswith("too large: ")
    assert other["error"].endswith("; what it would deny is not told")
