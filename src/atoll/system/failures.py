"""How the gateway finds out that a replica has failed, and what it does then. The defaults suit most services."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["USUAL", "FailureDetection", "HealthCheck", "OutlierEjection", "Retries"]


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Asking a replica whether it is ready. A 5xx makes it unhealthy at once, silence after `unhealthy_threshold` checks, each
    of which waits `timeout_s`; `healthy_threshold` good answers make it healthy again.

    Patient with silence, because on a busy machine all replicas are slow at once and there would be none left; who can't be
    reached at all is ejected much sooner.
    """

    interval_s: float = 1.0
    timeout_s: float = 2.0
    unhealthy_threshold: int = 3
    healthy_threshold: int = 1


@dataclass(frozen=True, slots=True)
class OutlierEjection:
    """Who fails real requests gets none for `ejection_s`, for twice as long when it does so again; long before a check tells.

    `consecutive_failures` are connections that failed or were cut, `consecutive_5xx` answers; 0 of either counts none. Answers
    are not counted by default: they are proof of life, and five faulty requests to one operation would take a replica away from
    all the others. Of all replicas at most `max_ejection_percent` are out: with 50, a single one never is.
    """

    consecutive_failures: int = 2
    consecutive_5xx: int = 0
    ejection_s: float = 5.0
    max_ejection_percent: int = 50


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is sent again where that is safe, and how many of a service's may be under way: this share of its
    requests, and always `min_concurrent`. A try is given up after `try_timeout_s` (None: never).

    `count` is, with the waiting between them, enough for a single replica to start again.
    """

    count: int = 12
    budget_percent: float = 20.0
    min_concurrent: int = 100
    try_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class FailureDetection:
    """Everything. Who is new or healthy again is given its full share of requests after `slow_start_s`. Below
    `panic_threshold_percent` of healthy replicas all are tried; 0: nobody unhealthy ever is. `max_connections` are those to all
    replicas together.
    """

    health_check: HealthCheck = HealthCheck()
    outlier_ejection: OutlierEjection = OutlierEjection()
    retries: Retries = Retries()
    slow_start_s: float = 10.0
    panic_threshold_percent: int = 0
    max_connections: int = 4096


USUAL = FailureDetection()
