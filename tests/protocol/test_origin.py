import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.origin import agent_url, is_loopback, normalise_origin


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://gpu.example.org", "https://gpu.example.org"),
        ("wss://GPU.Example.org:443/agent", "https://gpu.example.org"),
        ("HTTPS://gpu.example.org/", "https://gpu.example.org"),
        ("  https://gpu.example.org\n", "https://gpu.example.org"),
        ("https://gpu.example.org.", "https://gpu.example.org"),
        ("https://gpu.example.org:8443", "https://gpu.example.org:8443"),
        ("https://gpu.example.org:0443", "https://gpu.example.org"),
        ("https://gpu.example.org:80", "https://gpu.example.org:80"),
        ("https://gpu.example.org:", "https://gpu.example.org"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("ws://localhost:80", "http://localhost"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://[2001:DB8:0:0:0:0:0:1]:8443/", "https://[2001:db8::1]:8443"),
        ("https://[::1]", "https://[::1]"),
        ("https://[::ffff:10.0.0.1]", "https://10.0.0.1"),
        ("https://[::ffff:a00:1]:9", "https://10.0.0.1:9"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://gpu_1.lan", "https://gpu_1.lan"),
        ("https://gateway", "https://gateway"),
    ],
)
def test_one_spelling(url: str, origin: str) -> None:
    assert normalise_origin(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gpu.example.org",
        "gpu.example.org:443",
        "//gpu.example.org",
        "ftp://gpu.example.org",
        "https://",
        "https://:443",
        "https://.",
        "https://gpu..example",
        "https://.gpu.example",
        "https://gpu.example..",
        "https://-gpu.example",
        "https://gpu-.example",
        "https://gpu example.org",
        "https://gpu.example\\@evil.example",
        "https://gpu%2eexample",
        "https://*.example.org",
        "https://" + "a" * 64 + ".example",
        "https://" + "a." * 127 + "aa",
        "https://gpu.example:0",
        "https://gpu.example:65536",
        "https://gpu.example:-1",
        "https://gpu.example:٤٤٣",
        "https://gpu.example:443x",
        "https://user@gpu.example",
        "https://user:secret@gpu.example",
        "https://@gpu.example",
        "https://bücher.example",
        "https://gpu.example\u3002org",
        "https://127.1",
        "https://2130706433",
        "https://0x7f000001",
        "https://10.0.0.01",
        "https://10.0.0.256",
        "https://1.2.3.4.5",
        "https://[fe80::1%25eth0]",
        "https://[fe80::1%eth0]",
        "https://[::1",
        "https://[v1.x]",
        "https://[gpu.example]",
        "https://2001:db8::1",
        "https://gpu.example/remotegpu",
        "https://gpu.example//",
        "https://gpu.example/?x=1",
        "https://gpu.example#y",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InvalidValue):
        normalise_origin(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@gpu.example",
        "wss://hunter2@gpu.example",
        "https://user:hunter2@[::1",
        "https://user:hunter2@gpu.example:99999",
        "https://user:hunter2@ex\u2100mple",
        "ftp://user:hunter2@gpu.example",
        "https://user:hunter2@@gpu.example",
        "user:hunter2@gpu.example",
    ],
)
def test_a_password_in_an_address_is_not_repeated(url: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        normalise_origin(url)
    assert "hunter2" not in refused.value.message
    assert "hunter2" not in str(refused.value.__cause__)


@settings(max_examples=200, deadline=None)
@given(
    scheme=st.sampled_from(["http", "https", "ws", "wss", "ftp", ""]),
    rest=st.text(st.sampled_from("aB1.-_:[]@/?#% \\\téx0"), max_size=25),
)
def test_what_was_normalised_stays(scheme: str, rest: str) -> None:
    try:
        origin = normalise_origin(f"{scheme}://{rest}")
    except InvalidValue:
        return
    assert normalise_origin(origin) == origin
    assert origin == origin.lower()
    assert origin.isascii()


@pytest.mark.parametrize(
    "url", ["http://localhost", "http://127.0.0.1", "http://127.9.9.9:1", "http://[::1]:8000"]
)
def test_loopback(url: str) -> None:
    assert is_loopback(normalise_origin(url))


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost.example",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://127.example",
        "http://[::]",
    ],
)
def test_not_loopback(url: str) -> None:
    assert not is_loopback(normalise_origin(url))


def test_the_address_that_is_dialled() -> None:
    assert agent_url("https://GPU.example.org/") == "wss://gpu.example.org/agent"
    assert agent_url("wss://gpu.example.org:8443") == "wss://gpu.example.org:8443/agent"
    assert agent_url("http://localhost:8000") == "ws://localhost:8000/agent"
    assert agent_url("ws://[::1]:8000") == "ws://[::1]:8000/agent"
    for url in ("http://gpu.example.org", "ws://10.0.0.1:8000", "http://localhost.example"):
        with pytest.raises(InvalidValue, match="TLS"):
            agent_url(url)
