"""Where a dataset lies: who may name such a place, and whether it can be one."""

import asyncio
import re
import socket
import uuid
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Forbidden, InvalidInput, NotFound
from remotegpu_core.s3.addresses import is_refused
from remotegpu_core.services.access import visible_machine
from remotegpu_core.settings import Settings
from remotegpu_core.states import Lifecycle
from remotegpu_protocol.datasets import SourceKind, check_endpoint, check_location
from remotegpu_protocol.errors import InvalidValue

#: Seconds that a name may take to be looked up.
_LOOK_UP: Final = 3.0
_HOST: Final = re.compile(r"https?://(\[[^\]]*\]|[^:/]*)")


@dataclass(frozen=True, slots=True)
class Source:
    """As the caller named it; `endpoint` is for S3, `machine_id` for DIRECTORY only."""

    kind: SourceKind
    location: str
    endpoint: str | None = None
    machine_id: uuid.UUID | None = None


async def checked(actor: Actor, settings: Settings, source: Source) -> Source:
    """The source as it is kept.

    Every host, and the control plane, reaches a source with a trust of its own: its files, its
    address, its keys. So only admins name one, and others what the operator opened to them.

    Raises:
        InvalidInput: it is outside its grammar, or its endpoint at an address that is refused.
        Forbidden: others than admins may not name it.
        NotFound: the machine of a directory is not there.
    """
    location = _of_its_form(source)
    endpoint = source.endpoint
    if endpoint is not None:
        if source.kind is not SourceKind.S3:
            raise InvalidInput("Only S3 has an endpoint.", field=("source", "endpoint"))
        try:
            endpoint = check_endpoint(endpoint)
        except InvalidValue as error:
            raise InvalidInput(error.message, field=("source", "endpoint")) from None
    _require_allowed(actor, settings, source.kind, location, endpoint)
    if (source.kind is SourceKind.DIRECTORY) != (source.machine_id is not None):
        raise InvalidInput(
            "A DIRECTORY is one of a machine: give machineId with it, and with nothing else.",
            field=("source", "machineId"),
        )
    if source.machine_id is not None:
        try:
            machine = await visible_machine(actor, source.machine_id)
        except NotFound as error:
            raise NotFound(error.message, field=("source", "machineId")) from None
        if machine.lifecycle is Lifecycle.RETIRED:
            raise InvalidInput("This machine is retired.", field=("source", "machineId"))
    if endpoint is not None and not settings.s3_allow_link_local:
        await _refuse_link_local(endpoint)
    return Source(source.kind, location, endpoint, source.machine_id)


def _of_its_form(source: Source) -> str:
    try:
        return check_location(source.kind, source.location)
    except InvalidValue as error:
        raise InvalidInput(error.message, field=("source", "location")) from None


def _require_allowed(
    actor: Actor, settings: Settings, kind: SourceKind, location: str, endpoint: str | None
) -> None:
    if actor.is_admin:
        return
    # Of S3 only Amazon's: an endpoint is another place, whatever the bucket is called.
    if kind is not SourceKind.DIRECTORY and endpoint is None:
        for pattern in settings.dataset_sources:
            if fnmatchcase(location, pattern):
                return
    raise Forbidden(
        "Admins register datasets there: hosts reach it with a trust that is not yours. Ask one to "
        "register it with you as its owner.",
        field=("source", "location"),
    )


async def _refuse_link_local(endpoint: str) -> None:
    """For a good message: what counts is looked at again with every connection."""
    found = _HOST.match(endpoint)
    host = found[1].strip("[]") if found else ""
    try:
        async with asyncio.timeout(_LOOK_UP):
            known = await asyncio.get_running_loop().getaddrinfo(
                host, None, type=socket.SOCK_STREAM
            )
    except (OSError, UnicodeError, TimeoutError):
        # A name that only hosts know.
        return
    if any(is_refused(str(address[0])) for *_, address in known):
        raise InvalidInput(
            "This endpoint has a link-local address, where nothing but a host's own services is. "
            "An operator may allow it with REMOTEGPU_S3_ALLOW_LINK_LOCAL.",
            field=("source", "endpoint"),
        )
