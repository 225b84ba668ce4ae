"""Machines in the database, and what their agents would say."""

import itertools
import uuid
from typing import Any

from remotegpu_core.bus.samples import Sample
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Machine
from remotegpu_core.services.presence import connect
from remotegpu_protocol.codec import encode
from remotegpu_protocol.inventory import GpuInventory, HostInventory, Inventory
from remotegpu_protocol.messages import Enroll
from remotegpu_protocol.metrics import GpuMetrics, HostMetrics, Metrics

_numbers = itertools.count(1)

#: The replica that all machines of a test are connected to unless it says otherwise.
REPLICA = uuid.UUID("0198c1f0-0000-7000-8000-00000000000a")


async def make_machine(name: str | None = None, **values: Any) -> Machine:
    """A machine that was enrolled and has not connected yet."""
    name = name or f"node-{next(_numbers)}"
    return await Machine.create(
        name=name,
        name_key=name.lower(),
        public_key=key_of(name),
        created_at=now_ms(),
        **values,
    )


async def make_online(name: str | None = None) -> tuple[Machine, int]:
    """A connected machine and its epoch."""
    machine = await make_machine(name)
    connected = await connect(machine.id, REPLICA, agent_version="1.0", boot_id="boot-1")
    assert connected is not None
    return connected.machine, connected.epoch


def key_of(name: str) -> bytes:
    """32 bytes that stand for a public key; core does not look into them."""
    return name.encode().ljust(32, b".")[:32]


def enroll(token: str, *, key: str = "host", hardware: str | None = None) -> Enroll:
    """An enrolment as core gets it: the signature was checked before."""
    return Enroll(
        token=token,
        public_key=key_of(key),
        origin="https://gpu.example.org",
        versions=[1],
        signature=bytes(64),
        agent_version="1.0",
        hostname=f"{key}.example.org",
        hardware_uuid=hardware,
    )


def gpu(uuid_: str = "GPU-1", *, index: int = 0, **values: Any) -> GpuInventory:
    return GpuInventory(
        index=index, uuid=uuid_, model="NVIDIA H100", memory_total=80 * 2**30, **values
    )


def inventory(*gpus: GpuInventory, **host: Any) -> Inventory:
    return Inventory(
        revision=1, host=HostInventory(**{"hostname": "node-1", **host}), gpus=list(gpus)
    )


def sample(epoch: int = 1, at: int = 1000, *, gpus: int = 1, **values: Any) -> Sample:
    """A sample whose stamp and message both say `at` (milliseconds)."""
    metrics = Metrics(
        sampled_at=at,
        host=HostMetrics(cpu_utilization=12.5),
        gpus=[GpuMetrics(index, f"GPU-{index}", **values) for index in range(gpus)],
    )
    return Sample(epoch, at, encode(metrics))
