"""The one entry point: Envoy as data plane, a small controller as control plane.

Frozen data in, pure functions, files out: `translate` turns what is known (system, contracts, replicas, keys) into the
`ir.Gateway`; `xds` turns that into Envoy resources; `files` writes them; `controller` watches the bus and drives the rest.
The rule: nothing here imports a service or asks one. Routes come from contracts, addresses from the registry, and whatever
can't be read changes nothing, so that a dead bus, an empty bucket or a broken value never takes a working route away.
Liveness is Envoy's business alone: health checks, ejection and retries. Read `ir.py` first, then `translate.py`.
"""
