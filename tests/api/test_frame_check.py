"""The check at start: it accepts what runs here, and finds every way in which that could change."""

import re
from typing import Any

import pytest
import structlog
from websockets.protocol import OPEN

from remotegpu_api import frame_check, frames
from remotegpu_api.frame_check import difference, websocket_class
from remotegpu_api.frames import FrameWriter
from remotegpu_api.websocket_protocol import FrameProtocol, WebsocketProtocol
from remotegpu_core.settings import load_settings


async def test_the_installed_versions_pass() -> None:
    assert await difference(FrameProtocol) is None
    with structlog.testing.capture_logs() as logs:
        assert await websocket_class(load_settings()) is FrameProtocol
    assert logs == []


async def test_the_setting_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await websocket_class(load_settings(frame_path=False)) is WebsocketProtocol
    monkeypatch.setenv("REMOTEGPU_FRAME_PATH", "false")
    assert await websocket_class(load_settings()) is WebsocketProtocol


class _Renamed(FrameProtocol):
    """As if `writable` were called something else."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.may_write = self.writable
        del self.writable

    async def send(self, message: Any) -> None:
        self.writable = self.may_write
        try:
            await super().send(message)
        finally:
            del self.writable


class _DeafToPause(FrameProtocol):
    def pause_writing(self) -> None:
        pass


class _DeafToResume(FrameProtocol):
    def resume_writing(self) -> None:
        pass


class _OffersNone(FrameProtocol):
    handle_connect = WebsocketProtocol.handle_connect


class _ClosesUnseen(FrameProtocol):
    """As if the library kept its state elsewhere."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.close":
            self.conn.state = OPEN


class _OpenTooEarly(FrameProtocol):
    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        self.conn.state = OPEN


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (_Renamed, "AttributeError: .*writable"),
        (_DeafToPause, "while the transport is full"),
        (_DeafToResume, "free again"),
        (_OffersNone, "no frame path was offered"),
        (_ClosesUnseen, "after a close frame"),
        (_OpenTooEarly, "before the handshake"),
    ],
)
async def test_a_class_that_behaves_otherwise_is_found(
    broken: type[FrameProtocol], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_check, "FrameProtocol", broken)
    with structlog.testing.capture_logs() as logs:
        assert await websocket_class(load_settings()) is WebsocketProtocol
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("live.frame_path_off", "warning")
    assert re.search(found, line["reason"])


@pytest.mark.parametrize("length", [1, 125, 126, 65535, 65536])
async def test_a_header_that_differs_is_found(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = frames.frame
    monkeypatch.setattr(
        frames,
        "frame",
        lambda kind, message: b"\x81" * (len(message) == length) + original(kind, message),
    )
    assert await difference(FrameProtocol) == f"a message of {length} bytes is framed differently"


async def test_a_writer_that_ignores_fragments_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = FrameWriter.offer

    def careless(self: FrameWriter, message: bytes) -> bool:
        self._protocol.conn.expect_continuation_frame = False
        return original(self, message)

    monkeypatch.setattr(FrameWriter, "offer", careless)
    assert await difference(FrameProtocol) == "a frame was written within a fragmented message"
