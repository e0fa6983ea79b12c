"""What only an administrator may do: the bus's accounts, streams and durables, and the databases' roles.

The rule it keeps: what the system should be is computed as text or data first (`nats`, pure); then it is made true, as often as
one likes (`bus`). Used by the host and by the deployed job; services never see these credentials. Read `nats` first.
"""
