"""A scrape of 200 machines with 8 GPUs each, and how long it holds the event loop up."""

import asyncio
import gc
import time
import uuid
import zlib

from remotegpu_core.bus.samples import Sample
from remotegpu_core.clock import now_ms
from remotegpu_core.exposition.fleet import expose_fleet
from remotegpu_core.exposition.gpu_fields import GPU_FIELDS
from remotegpu_core.exposition.machines import HeldMachines
from remotegpu_core.models import Gpu, Machine
from remotegpu_core.states import Presence
from remotegpu_protocol.codec import encode
from remotegpu_protocol.metrics import GpuMetrics, HostMetrics, Metrics
from tests.api.plane import Server
from tests.core.hosts import key_of
from tests.core.patience import eventually

MACHINES = 200
GPUS = 8
#: Seconds of work at a stretch. A slice is 2 ms, and taking one answer of the database apart adds to
#: it; in one go it would be some 150 ms.
LONGEST = 0.02


async def test_a_large_scrape_leaves_the_loop_to_others(any_server: Server) -> None:
    plane = any_server.plane
    held = await fill(any_server)
    machines = HeldMachines(plane.bus)
    longest = 0.0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            # Of this thread's own time: what other processes take from it is not the scrape's doing.
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    # A full collection of the test process's own garbage would be measured too.
    gc.collect()
    gc.freeze()
    watching = asyncio.create_task(watch())
    began = time.thread_time()
    text = await expose_fleet(
        machines, held, replica_id=plane.replica_id, started_at=plane.started_at
    )
    chunks = [chunk async for chunk in text.chunks]
    took = time.thread_time() - began
    done.set()
    await watching
    gc.unfreeze()
    lines = b"".join(chunks).splitlines()
    series = [line for line in lines if not line.startswith(b"#")]
    gpu_series = [line for line in series if line.startswith(b"DCGM_")]
    assert len(gpu_series) == MACHINES * GPUS * len(GPU_FIELDS)
    assert len({line.rsplit(b" ", 1)[0] for line in series}) == len(series)
    size = sum(map(len, chunks))
    print(  # noqa: T201 - shown by pytest -s, for whoever measures
        f"{len(series)} series, {size / 1e6:.1f} MB ({size / MACHINES / 1e3:.1f} kB a machine), "
        f"{len(zlib.compress(b''.join(chunks), 1)) / MACHINES / 1e3:.1f} kB compressed, {took * 1000:.0f} ms in all, the loop was "
        f"held up for {longest * 1000:.1f} ms at most"
    )
    assert longest < LONGEST


async def fill(server: Server) -> dict[uuid.UUID, int]:
    """Make the machines with their newest samples, and return their epochs."""
    machines = [
        Machine(
            name=f"node-{number:03}",
            name_key=f"node-{number:03}",
            public_key=key_of(f"node-{number:03}"),
            presence=Presence.ONLINE,
            replica_id=server.plane.replica_id,
            epoch=1,
            host={"hostname": f"node-{number:03}.example.org", "driver_version": "570.86.15"},
            created_at=now_ms(),
        )
        for number in range(MACHINES)
    ]
    await Machine.bulk_create(machines, batch_size=100)
    cards = [
        Gpu(
            machine_id=machine.id,
            index=index,
            uuid=card_of(machine.id, index),
            model="NVIDIA H100 80GB HBM3",
            details={"pci_bus_id": f"00000000:{index:02X}:00.0"},
            created_at=now_ms(),
        )
        for machine in machines
        for index in range(GPUS)
    ]
    await Gpu.bulk_create(cards, batch_size=500)
    for machine in machines:
        at = now_ms()
        said = Metrics(
            sampled_at=at,
            host=HostMetrics(load1=1.5, memory_used=2**34, memory_total=2**36),
            gpus=[
                GpuMetrics(
                    index=index,
                    uuid=card_of(machine.id, index),
                    utilization=87.0,
                    memory_controller_utilization=41.0,
                    memory_used=2**33,
                    memory_total=2**36,
                    temperature=61.0,
                    power=312.5,
                    power_limit=700.0,
                    sm_clock=1980,
                    memory_clock=2619,
                    fan_speed=30.0,
                    ecc_corrected=0,
                    ecc_uncorrected=0,
                    throttle_reasons=4,
                )
                for index in range(GPUS)
            ],
        )
        await server.plane.bus.publish_sample(machine.id, Sample(1, at, encode(said)))
    # Written in order, so that all are there when the last is.
    last = machines[-1].id

    async def arrived() -> bool:
        return (await server.plane.bus.live([last]))[last].sample is not None

    await eventually(arrived)
    return {machine.id: 1 for machine in machines}


def card_of(machine_id: uuid.UUID, index: int) -> str:
    return f"GPU-{uuid.uuid5(machine_id, str(index))}"
