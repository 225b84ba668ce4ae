"""`remotegpu serve` without its limit on messages an agent.

The product takes 30 messages a second from an agent and drops the rest before it reads them. Fifty
links that send all they can would measure the dropping, so for that one benchmark the limit is
lifted; everything else is the product.
"""

from typing import Final

from remotegpu_api.cli import main
from remotegpu_protocol import server_link

_BEYOND_ANY: Final = 1e12


def lift() -> None:
    for name in ("MESSAGE_RATE", "MESSAGE_BURST"):
        if not hasattr(server_link, name):
            raise AttributeError(f"{server_link.__name__} has no {name} to lift any more.")
        setattr(server_link, name, _BEYOND_ANY)


if __name__ == "__main__":
    lift()
    main()
