"""What kind of network interface each is, as the kernel says over rtnetlink(7)."""

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

_RTM_NEWLINK: Final = 16
_RTM_GETLINK: Final = 18
#: NLM_F_REQUEST and NLM_F_DUMP.
_DUMP: Final = 0x301
#: NLMSG_ERROR and NLMSG_DONE.
_END: Final = frozenset({2, 3})
_IFLA_IFNAME: Final = 3
_IFLA_LINKINFO: Final = 18
_IFLA_INFO_KIND: Final = 1
#: struct nlmsghdr, struct ifinfomsg and struct rtattr.
_MESSAGE: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ATTRIBUTE: Final = struct.Struct("=HH")
#: The kernel packs a dump into pieces of at most this size.
_PIECE: Final = 64 * 1024
#: Seconds.
_PATIENCE: Final = 5.0


def link_kinds() -> dict[str, str]:
    """By interface, as `ip -details link` shows it (`bridge`, `veth`, `wireguard`). Interfaces of
    drivers for devices, and of some drivers outside of the kernel, have none.

    Raises:
        OSError: the kernel does not answer.
    """
    kinds: dict[str, str] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_PATIENCE)
        kernel.send(
            _MESSAGE.pack(_MESSAGE.size + _LINK.size, _RTM_GETLINK, _DUMP, 1, 0)
            + _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        )
        while True:
            for type_, body in _messages(kernel.recv(_PIECE)):
                if type_ in _END:
                    return kinds
                if type_ == _RTM_NEWLINK:
                    attributes = dict(_attributes(body[_LINK.size :]))
                    info = dict(_attributes(attributes.get(_IFLA_LINKINFO, b"")))
                    if _IFLA_INFO_KIND in info:
                        kinds[_text(attributes[_IFLA_IFNAME])] = _text(info[_IFLA_INFO_KIND])


def _messages(piece: bytes) -> Iterator[tuple[int, bytes]]:
    while len(piece) >= _MESSAGE.size:
        length, type_, *_ = _MESSAGE.unpack_from(piece)
        if length < _MESSAGE.size:
            return
        yield type_, piece[_MESSAGE.size : length]
        piece = piece[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, type_ = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        # The two highest bits are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
        yield type_ & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _text(value: bytes) -> str:
    return os.fsdecode(value.rstrip(b"\0"))
