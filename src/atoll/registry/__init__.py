"""Who is running where: each replica announces itself on the bus, whoever wants to know watches.

The rule it keeps: membership, not liveness. Entries don't expire; silence of everyone, an empty bucket or an unreadable value
change nothing; only a withdrawal removes, or a replica's silence while others are still heard. Liveness is the gateway's.
Read `replica` (what an entry is) first, then `announcement` (writing) and `watch` (reading).
"""
