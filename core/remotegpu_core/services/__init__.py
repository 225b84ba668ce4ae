"""What the system does, as plain async functions over the models.

A service takes the actor first, checks what they may, writes state, audit event and change in one
transaction, and raises `RemoteGPUError` subclasses. Callers nudge the bus after the commit.
"""
