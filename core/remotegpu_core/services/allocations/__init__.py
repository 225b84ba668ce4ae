"""Who has which machine, or which of its GPUs, for how long.

`allocate`, `extend` and `release` are what people ask for, `duty` is what time does, `outcomes` is
what hosts answer; all of them move allocations through `lifecycle`, within one `ledger` each. What
was booked is exclusive by the database's constraints, whatever this code does.
"""
