import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_protocol.addresses import is_reachable, parse_address


@pytest.mark.parametrize(
    ("spelt", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7\n", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:0207", "192.0.2.7"),
        ("0000:0000:0000:0000:0000:ffff:192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0:0::0007", "2001:db8::7"),
        ("2001:0db8:0000:0000:0000:0000:0000:0007", "2001:db8::7"),
        ("2001:db8::7%eth0", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.7%1", "192.0.2.7"),
    ],
)
def test_spellings_of_one_address_are_one(spelt: str, address: str) -> None:
    assert str(parse_address(spelt)) == address


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", " ", "node-1", "10.0.0", "10.0.0.256", "1.2.3.4.5", "10.0.0.7/24", "[::1]"),
        # 8 or 10? Nobody can tell.
        *("010.0.0.7", "10.0.0.07", "::ffff:010.0.0.7"),
        *("0x7f000001", "2130706433", "10.0.0.7; reboot", "10.0.0.７", "::g", "1::2::3", "%eth0"),
    ],
)
def test_what_spells_none(text: str | None) -> None:
    assert parse_address(text) is None


@given(st.ip_addresses())
def test_a_canonical_spelling_is_kept(address: ipaddress.IPv4Address) -> None:
    parsed = parse_address(str(address))
    assert parsed is not None
    assert parse_address(str(parsed)) == parsed
    assert len(str(parsed)) <= 45


@given(st.text())
def test_any_text_is_an_address_or_none(text: str) -> None:
    parse_address(text)


@pytest.mark.parametrize(
    ("text", "reachable"),
    [
        ("10.0.0.7", True),
        ("100.64.0.7", True),
        ("8.8.8.8", True),
        ("192.0.2.7", True),
        ("2600::7", True),
        ("fd00::7", True),
        # NAT64; `ipaddress` counts all of ::/8 as reserved.
        ("64:ff9b::a00:7", True),
        ("127.0.0.1", False),
        ("127.8.9.10", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("169.254.169.254", False),
        ("fe80::1%eth0", False),
        ("0.0.0.0", False),  # noqa: S104 - nothing listens there
        ("0.1.2.3", False),
        ("::", False),
        ("224.0.0.1", False),
        ("ff02::1", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
    ],
)
def test_reachable(text: str, reachable: bool) -> None:
    address = parse_address(text)
    assert address is not None
    assert is_reachable(address) is reachable
