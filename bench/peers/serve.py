"""Running a peer's application the way RemoteGPU runs its own."""

import os

import uvicorn
from starlette.applications import Starlette


def serve(app: Starlette) -> None:
    """Serve on the port in PORT with uvicorn's fast parts and without compression."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        http="httptools",
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        backlog=2048,
        log_level="warning",
        access_log=False,
    )
