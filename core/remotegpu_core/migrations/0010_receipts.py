from tortoise import fields
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration
from remotegpu_core.database.rules import Rule, add_rules

#: What is booked is in somebody's hands.
_OCCUPIED = (
    "EXISTS (SELECT 1 FROM occupancy WHERE allocation_id = OLD.allocation_id "
    "AND resource_id = OLD.resource_id AND closed_at IS NULL)"
)

#: With the checks and keys of 0003 and 0004: what was in somebody's hands is booked, and what is
#: booked is not available, until there is a receipt that is proven or that somebody answers for.
_RULES = (
    Rule(
        "receipt_is_proven_or_answered_for",
        "cleaning_receipt",
        "INSERT",
        "NOT NEW.verified AND NEW.reason IS NULL",
    ),
    Rule(
        "receipt_is_final",
        "cleaning_receipt",
        "UPDATE",
        "NEW.allocation_id <> OLD.allocation_id OR NEW.verified <> OLD.verified "
        "OR COALESCE(NEW.reason, '') <> COALESCE(OLD.reason, '')",
    ),
    Rule(
        "occupancy_is_booked",
        "occupancy",
        "INSERT",
        "NOT EXISTS (SELECT 1 FROM booking WHERE allocation_id = NEW.allocation_id "
        "AND resource_id = NEW.resource_id AND held)",
    ),
    Rule(
        "occupancy_closed_by_own_receipt",
        "occupancy",
        "UPDATE",
        "NEW.allocation_id <> OLD.allocation_id OR NEW.resource_id <> OLD.resource_id "
        "OR (NEW.receipt_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM cleaning_receipt "
        "WHERE id = NEW.receipt_id AND allocation_id = NEW.allocation_id))",
    ),
    Rule("occupancy_ends_closed", "occupancy", "DELETE", "OLD.closed_at IS NULL"),
    Rule(
        "booking_held_while_occupied",
        "booking",
        "UPDATE",
        "OLD.held AND (NOT NEW.held OR NEW.resource_id <> OLD.resource_id "
        "OR NEW.allocation_id <> OLD.allocation_id) AND " + _OCCUPIED,
    ),
    Rule("booking_kept_while_occupied", "booking", "DELETE", "OLD.held AND " + _OCCUPIED),
    # One that its host was told of (it has a generation) may have left something there.
    Rule(
        "allocation_ends_with_receipt",
        "allocation",
        "UPDATE",
        "NEW.state IN ('RELEASED', 'FAILED') AND OLD.state NOT IN ('RELEASED', 'FAILED') AND "
        "(EXISTS (SELECT 1 FROM occupancy WHERE allocation_id = OLD.id AND closed_at IS NULL) "
        "OR (NEW.generation > 0 AND "
        "NOT EXISTS (SELECT 1 FROM cleaning_receipt WHERE allocation_id = OLD.id)))",
    ),
)


class Migration(migration.Migration):
    """Nothing is available without a receipt of whoever had it last."""

    dependencies = [("remotegpu", "0009_addresses")]

    operations = [
        ops.AddField(
            model_name="Allocation",
            name="keys_error_code",
            field=fields.CharField(
                null=True,
                description="Why its account's keys on the host are not its user's, while they are not.",
                max_length=64,
            ),
        ),
        ops.AddField(
            model_name="Allocation",
            name="keys_error_message",
            field=fields.CharField(null=True, max_length=2000),
        ),
        add_rules(_RULES),
    ]
