"""The command that replaces the keys of an allocation's account."""

import asyncio

from remotegpu_agent.accounts.accounts import Accounts
from remotegpu_agent.accounts.ids import IdLedger
from remotegpu_agent.commands.handler import (
    NOT_DONE,
    CommandFailed,
    Done,
    Handler,
    LookedUp,
    Report,
)
from remotegpu_agent.commands.policy import PolicySource
from remotegpu_agent.commands.records import Progress
from remotegpu_protocol.kinds import ACCOUNT_KEYS, AccountKeys, Nothing


async def accounts_of(policy: PolicySource, ids: IdLedger | None = None) -> Accounts | None:
    """How accounts are made here; None where the host's policy has none made."""
    found = await asyncio.to_thread(policy.read)
    if ACCOUNT_KEYS.name not in found.commands:
        return None
    return Accounts(found.account_uids, found.account_shell, ids)


class ReplaceKeys(Handler[AccountKeys]):
    kind = ACCOUNT_KEYS

    def __init__(self, policy: PolicySource) -> None:
        self._policy = policy

    async def run(self, arguments: AccountKeys, report: Report) -> Nothing:
        await report(Progress("replacing the keys"))
        accounts = await accounts_of(self._policy)
        if accounts is None:
            raise CommandFailed(
                "NOT_ALLOWED", f"The policy of this host does not enable {ACCOUNT_KEYS.name}."
            )
        await asyncio.to_thread(accounts.replace_keys, arguments.account, arguments.keys)
        return Nothing()

    async def look_up(self, arguments: AccountKeys) -> LookedUp:
        accounts = await accounts_of(self._policy)
        if accounts is None:
            return NOT_DONE
        has = await asyncio.to_thread(accounts.has, arguments.account, arguments.keys)
        return Done(Nothing()) if has else NOT_DONE
