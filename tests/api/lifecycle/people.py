"""People at the graph, with the consumers' documents as they stand."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from remotegpu_core.clock import now_ms
from remotegpu_core.models import Allocation
from remotegpu_graphql.ids import decode_id
from tests.api.documents import contract
from tests.api.plane import Json, Server
from tests.core.patience import eventually
from tests.core.people import HOUR

_ALLOCATE: Final = contract("07-allocate")
_OPERATIONS: Final = contract("08-operations")
_KEYS: Final = contract("09-ssh-keys")
_AUDIT: Final = contract("13-audit")
_ALLOCATION: Final = """
query($id: ID!) {
  allocation(id: $id) {
    state error { code message } sshKeysError { code message }
    machine { lifecycle lifecycleReason availability }
    cleaningReceipt {
      verified simulated reason overriddenBy { username }
      items { surface action found removed verified detail }
    }
  }
}
"""
_MACHINE: Final = "query($id: ID!) { machine(id: $id) { lifecycle lifecycleReason availability } }"
_RETRY: Final = """
mutation($input: RetryReclaimInput!) {
  retryReclaim(input: $input) { operation { id } userErrors { field message code } }
}
"""
_OVERRIDE: Final = """
mutation($input: OverrideQuarantineInput!) {
  overrideQuarantine(input: $input) { machine { id } userErrors { field message code } }
}
"""

PATIENCE: Final = 45.0


@dataclass
class Person:
    """Somebody who is signed in."""

    server: Server
    name: str
    id: str
    token: str

    async def add_key(self, name: str, public_key: str) -> str:
        """The id of the key."""
        payload = await self._do(
            _KEYS, "AddSshKey", "addSshKey", {"name": name, "publicKey": public_key}
        )
        key_id: str = payload["sshKey"]["id"]
        return key_id

    async def remove_key(self, key_id: str) -> None:
        await self._do(_KEYS, "RemoveSshKey", "removeSshKey", {"id": key_id})

    async def reset_keys(self, allocation_id: str) -> Json:
        """The operation when it is over."""
        payload = await self._do(
            *(_KEYS, "ResetSshKeys", "resetSshKeys"),
            {"allocationId": allocation_id, "key": uuid.uuid4().hex},
        )
        return await self.ended(payload["operation"]["id"])

    async def allocate(self, machine_id: str, **values: Any) -> Json:
        """The payload of asking for the whole machine for an hour, errors and all."""
        wanted = {
            "machineId": machine_id,
            "endsAt": _iso(now_ms() + HOUR),
            "idempotencyKey": uuid.uuid4().hex,
            **values,
        }
        data = await self.server.ask(
            _ALLOCATE, {"input": wanted}, token=self.token, operation="Allocate"
        )
        payload: Json = data["allocate"]
        return payload

    async def release(self, allocation_id: str) -> str:
        """The operation that cleans, by its id."""
        payload = await self._do(
            *(_ALLOCATE, "ReleaseAllocation", "releaseAllocation"),
            {"id": allocation_id, "key": uuid.uuid4().hex},
        )
        operation_id: str = payload["operation"]["id"]
        return operation_id

    async def retry(self, machine_id: str) -> Json:
        return await self._ask(_RETRY, "retryReclaim", {"input": {"machineId": machine_id}})

    async def override(self, machine_id: str, reason: str) -> Json:
        given = {"machineId": machine_id, "reason": reason}
        return await self._ask(_OVERRIDE, "overrideQuarantine", {"input": given})

    async def allocation(self, allocation_id: str) -> Json:
        data = await self.server.ask(_ALLOCATION, {"id": allocation_id}, token=self.token)
        found: Json = data["allocation"]
        return found

    async def machine(self, machine_id: str) -> Json:
        data = await self.server.ask(_MACHINE, {"id": machine_id}, token=self.token)
        found: Json = data["machine"]
        return found

    async def reached(self, allocation_id: str, state: str) -> Json:
        """The allocation, as soon as it is in a state."""

        async def is_there() -> bool:
            return str((await self.allocation(allocation_id))["state"]) == state

        await eventually(is_there, patience=PATIENCE)
        return await self.allocation(allocation_id)

    async def ended(self, operation_id: str, *, patience: float = PATIENCE) -> Json:
        """An operation that is over."""

        async def operation() -> Json:
            data = await self.server.ask(
                _OPERATIONS, {"id": operation_id}, token=self.token, operation="Operation"
            )
            found: Json = data["operation"]
            return found

        async def is_over() -> bool:
            return (await operation())["finishedAt"] is not None

        await eventually(is_over, patience=patience)
        return await operation()

    async def audited(self, action: str) -> list[Json]:
        data = await self.server.ask(
            _AUDIT, {"filter": {"action": action}}, token=self.token, operation="Audit"
        )
        return [edge["node"] for edge in data["auditEvents"]["edges"]]

    async def _do(self, document: str, operation: str, field: str, variables: Json) -> Json:
        data = await self.server.ask(document, variables, token=self.token, operation=operation)
        payload: Json = data[field]
        assert payload["userErrors"] == [], payload
        return payload

    async def _ask(self, document: str, field: str, variables: Json) -> Json:
        """A payload with its errors, or the error of the whole answer."""
        body: Json = (await self.server.post(document, variables, token=self.token)).json()
        if "errors" in body:
            return {"userErrors": [error["extensions"] for error in body["errors"]]}
        payload: Json = body["data"][field]
        return payload


async def admin_of(server: Server) -> Person:
    return Person(server, "admin", "", await server.sign_in())


async def user_of(admin: Person, name: str) -> Person:
    return Person(admin.server, name, *await admin.server.make_user(admin.token, name))


async def row_of(allocation_id: str) -> Allocation:
    return await Allocation.get(id=decode_id(allocation_id, "Allocation", field="id"))


def _iso(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat()
