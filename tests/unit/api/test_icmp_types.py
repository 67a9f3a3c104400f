"""Names of ICMP types, written here as the two registries have them: whoever mistakes one opens another."""

import pytest
from tests.unit.api.policy_texts import compiled

from pilus_api.errors import InvalidError
from pilus_api.rules import Ports

TYPES = {
    "IPv4": """
        0 EchoReply, 3 DestinationUnreachable, 5 Redirect, 8 Echo, 8 EchoRequest, 9 RouterAdvertisement, 10 RouterSelection,
        11 TimeExceeded, 12 ParameterProblem, 13 Timestamp, 14 TimestampReply, 40 Photuris, 42 ExtendedEchoRequest,
        43 ExtendedEchoReply
    """,
    "IPv6": """
        1 DestinationUnreachable, 2 PacketTooBig, 3 TimeExceeded, 4 ParameterProblem, 128 EchoRequest, 129 EchoReply,
        130 MulticastListenerQuery, 131 MulticastListenerReport, 132 MulticastListenerDone, 133 RouterSolicitation,
        134 RouterAdvertisement, 135 NeighborSolicitation, 136 NeighborAdvertisement, 137 RedirectMessage, 138 RouterRenumbering,
        139 ICMPNodeInformationQuery, 140 ICMPNodeInformationResponse, 141 InverseNeighborDiscoverySolicitation,
        142 InverseNeighborDiscoveryAdvertisement, 144 HomeAgentAddressDiscoveryRequest, 145 HomeAgentAddressDiscoveryReply,
        146 MobilePrefixSolicitation, 147 MobilePrefixAdvertisement, 157 DuplicateAddressRequestCodeSuffix,
        158 DuplicateAddressConfirmationCodeSuffix, 160 ExtendedEchoRequest, 161 ExtendedEchoReply
    """,
}
NAMES = {
    (family, name): int(number)
    for family, text in TYPES.items()
    for number, name in (each.split() for each in text.split(","))
}  # fmt: skip
PROTOCOLS = {"IPv4": 1, "IPv6": 58}


def allowed(family: str, name: str) -> tuple[Ports, ...] | None:
    (rule,) = compiled({"ingress": [{"icmps": [{"fields": [{"family": family, "type": name}]}]}]}).rules
    return rule.ports


@pytest.mark.parametrize("number", [0, 8, 99, 100, 249, 255])
def test_a_number_may_be_a_text(number: int) -> None:
    for family, protocol in PROTOCOLS.items():
        assert allowed(family, str(number)) == (Ports(protocol, number, number),)


def test_they_are_all_here() -> None:
    assert [sum(of == family for of, _ in NAMES) for family in TYPES] == [14, 27]


@pytest.mark.parametrize(("family", "name", "number"), [(*key, number) for key, number in NAMES.items()])
def test_each_is_its_number(family: str, name: str, number: int) -> None:
    assert allowed(family, name) == (Ports(PROTOCOLS[family], number, number),)


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_a_name_of_one_family_alone_is_none_of_the_other(family: str, name: str) -> None:
    other = {"IPv4": "IPv6", "IPv6": "IPv4"}[family]
    if (other, name) in NAMES:
        assert allowed(other, name) == (Ports(PROTOCOLS[other], NAMES[other, name], NAMES[other, name]),)
    else:
        with pytest.raises(InvalidError) as refused:
            allowed(other, name)
        assert refused.value.path == "spec.ingress[0].icmps[0].fields[0]"
