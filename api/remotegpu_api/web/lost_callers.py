"""Callers who went away before they were answered."""

from typing import Any

from starlette.types import Message, Send


def to_whoever_is_there(send: Send) -> Send:
    """Uvicorn's own `send` of a request, but what is said to a connection that is gone is dropped.

    Uvicorn does the same once it has heard of it. Between the moment in which uvloop has closed a
    connection and that one, it raises what would be logged as a bug of ours.
    """
    cycle: Any = getattr(send, "__self__", None)

    async def sent(message: Message) -> None:
        try:
            await send(message)
        except RuntimeError as error:
            if "the handler is closed" not in str(error):
                raise
            if cycle is not None:
                # Or it would complain that the answer was never finished.
                cycle.disconnected = True

    return sent
