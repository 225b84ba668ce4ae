import strawberry

from remotegpu_core.services import fleet
from remotegpu_graphql.scalars import ByteCount
from remotegpu_graphql.sharing import shareable


@shareable
@strawberry.type(description="Machines in numbers.")
class FleetMachines:
    total: int = strawberry.field(description="All that you may see.")
    online: int = strawberry.field(description="Connected.")
    unreachable: int = strawberry.field(description="Silent for 12 seconds or more.")
    lost: int = strawberry.field(description="Silent for two minutes or more.")
    available: int = strawberry.field(
        description="Connected, in service, and nobody holds any of it."
    )
    allocated: int = strawberry.field(description="Held, wholly or in part.")
    quarantined: int = strawberry.field(description="Not to be used until somebody looked at it.")


@shareable
@strawberry.type(description="GPUs in numbers. Sums and means are over those that report.")
class FleetGpus:
    total: int = strawberry.field(description="All in machines that you may see.")
    available: int = strawberry.field(description="That could be used now.")
    allocated: int = strawberry.field(description="That somebody holds.")
    unhealthy: int = strawberry.field(description="That do not work.")
    utilization: float | None = strawberry.field(description="Mean, in percent, 0 to 100.")
    memory_used: ByteCount | None = strawberry.field(description="Memory in use.")
    memory_total: ByteCount | None = strawberry.field(description="Memory that there is.")
    power: float | None = strawberry.field(description="Drawn by all, in watts.")


@shareable
@strawberry.type(description="What you may see of the fleet, in numbers.")
class Fleet:
    machines: FleetMachines = strawberry.field(description="Machines.")
    gpus: FleetGpus = strawberry.field(description="GPUs.")

    @classmethod
    def of(cls, summary: fleet.Fleet) -> "Fleet":
        machines, gpus = summary.machines, summary.gpus
        return cls(
            machines=FleetMachines(
                total=machines.total,
                online=machines.online,
                unreachable=machines.unreachable,
                lost=machines.lost,
                available=machines.available,
                allocated=machines.allocated,
                quarantined=machines.quarantined,
            ),
            gpus=FleetGpus(
                total=gpus.total,
                available=gpus.available,
                allocated=gpus.allocated,
                unhealthy=gpus.unhealthy,
                utilization=gpus.utilization,
                memory_used=None if gpus.memory_used is None else ByteCount(gpus.memory_used),
                memory_total=None if gpus.memory_total is None else ByteCount(gpus.memory_total),
                power=gpus.power,
            ),
        )
