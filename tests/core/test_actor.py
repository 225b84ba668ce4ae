import uuid

import pytest

from remotegpu_core.actor import (
    SYSTEM,
    Actor,
    ActorKind,
    Role,
    Scope,
    anonymous,
    expand,
    machine_actor,
)
from remotegpu_core.errors import Forbidden, Unauthenticated


def bearer(role: Role, *scopes: Scope) -> Actor:
    user = uuid.uuid4()
    return Actor(
        ActorKind.API_TOKEN,
        id=uuid.uuid4(),
        user_id=user,
        role=role,
        scopes=expand(frozenset(scopes)),
    )


def test_a_scope_includes_those_below_it() -> None:
    assert expand(frozenset()) == frozenset()
    assert expand(frozenset({Scope.READ})) == {Scope.READ}
    assert expand(frozenset({Scope.WRITE})) == {Scope.READ, Scope.WRITE}
    assert expand(frozenset({Scope.ADMIN})) == set(Scope)


@pytest.mark.parametrize("actor", [anonymous(), machine_actor(uuid.uuid4())])
def test_who_is_not_signed_in_may_nothing(actor: Actor) -> None:
    assert not actor.is_signed_in
    assert not actor.is_admin
    assert not actor.sees_all_machines
    for attempt in (
        actor.require_user,
        actor.require_admin,
        lambda: actor.require_scope(Scope.READ),
    ):
        with pytest.raises(Unauthenticated):
            attempt()


def test_an_admin_acts_through_the_admin_scope_only() -> None:
    assert bearer(Role.ADMIN, Scope.ADMIN).is_admin
    for scope in (Scope.READ, Scope.WRITE):
        limited = bearer(Role.ADMIN, scope)
        assert not limited.is_admin
        assert limited.sees_all_machines
        with pytest.raises(Forbidden, match="scope ADMIN"):
            limited.require_admin()
    assert not bearer(Role.ADMIN).sees_all_machines


def test_a_user_is_no_admin_whatever_the_scopes_say() -> None:
    user = bearer(Role.USER, Scope.ADMIN)
    assert not user.is_admin
    assert not user.sees_all_machines
    with pytest.raises(Forbidden, match="Only an admin"):
        user.require_admin()


def test_a_missing_scope_is_named_with_those_there_are() -> None:
    with pytest.raises(Forbidden, match=r"scope WRITE; yours has READ\."):
        bearer(Role.USER, Scope.READ).require_scope(Scope.WRITE)
    with pytest.raises(Forbidden, match="yours has none"):
        bearer(Role.USER).require_scope(Scope.READ)


def test_the_system_may_everything_and_is_no_user() -> None:
    SYSTEM.require_admin()
    SYSTEM.require_scope(Scope.ADMIN)
    assert SYSTEM.is_admin
    with pytest.raises(Unauthenticated):
        SYSTEM.require_user()


def test_an_address_can_be_added() -> None:
    actor = bearer(Role.USER, Scope.READ)
    assert actor.at("192.0.2.1").source_address == "192.0.2.1"
    assert actor.at("192.0.2.1").user_id == actor.user_id
