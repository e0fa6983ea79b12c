"""From `ir.Gateway` to Envoy's resources: pure functions, one file per filter or resource.

The rule: `order.py` is the one place that says which filters run and why in that order; every route says what token it
needs, because one that says nothing would be public. Field names and their traps are from Envoy 1.40's own descriptors.
Read `order.py` first, then `resources.py`, which puts everything together.
"""
