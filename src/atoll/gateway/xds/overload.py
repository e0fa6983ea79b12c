"""What the gateway gives up, in which order, when its memory or the machine's CPU runs out: some requests, more of them,
connections at the last. Envoy's admin port is exempt.
"""

from __future__ import annotations

from atoll.gateway.ir import Overload
from atoll.gateway.xds.typed import Json, seconds, typed_extension

__all__ = ["manager"]

# Each costs some 50 KB at most: far below what a machine can't bear, far above what one gateway is asked for.
_CONNECTIONS = 20_000
_LOOK_S = 0.25
_MEMORY = "envoy.resource_monitors.fixed_heap"
_CPU = "envoy.resource_monitors.cpu_utilization"


def manager(overload: Overload) -> Json:
    """Bootstrap.overload_manager."""
    shedding = [_between(_MEMORY, 0.90, 0.97)]
    if overload.cpu_limit_percent:
        shedding.append(_between(_CPU, overload.cpu_limit_percent / 100, 1.0))
    return {
        "refresh_interval": seconds(_LOOK_S),
        "resource_monitors": _monitors(overload),
        "actions": [
            # Free pages go back first: they may be all it takes.
            _action("shrink_heap", [_above(_MEMORY, 0.85)]),
            # The more there is too much, the larger the share that is answered 503.
            _action("stop_accepting_requests", shedding),
            _action("stop_accepting_connections", [_above(_MEMORY, 0.99)]),
        ],
    }


def _monitors(overload: Overload) -> list[Json]:
    api = "envoy.extensions.resource_monitors"
    found = [
        typed_extension(
            "envoy.resource_monitors.global_downstream_max_connections",
            f"{api}.downstream_connections.v3.DownstreamConnectionsConfig",
            max_active_downstream_connections=_CONNECTIONS,
        ),
        typed_extension(_MEMORY, f"{api}.fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=overload.memory_limit_mib << 20),
    ]
    if overload.cpu_limit_percent:
        found.append(typed_extension(_CPU, f"{api}.cpu_utilization.v3.CpuUtilizationConfig", mode="HOST"))
    return found


def _action(name: str, triggers: list[Json]) -> Json:
    return {"name": f"envoy.overload_actions.{name}", "triggers": triggers}


def _above(monitor: str, value: float) -> Json:
    return {"name": monitor, "threshold": {"value": value}}


def _between(monitor: str, none: float, all_: float) -> Json:
    return {"name": monitor, "scaled": {"scaling_threshold": none, "saturation_threshold": all_}}
