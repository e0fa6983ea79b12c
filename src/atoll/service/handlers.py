"""Event handlers as the consumer wants them: `invoke(body, delivery, transaction)` by type of event."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from atoll.delivery.handling import Delivery, Handler, Handlers
from atoll.service import context
from atoll.service.arguments import From
from atoll.service.binding import body_reader
from atoll.service.calls import Call
from atoll.service.operations import Subscription
from atoll.telemetry.metrics import Meter

if TYPE_CHECKING:
    from atoll.service.injection import Injector
    from atoll.service.router import Hook
    from atoll.service.service import Service
    from atoll.service.tracing import Tracing

__all__ = ["Observed", "build_handlers", "in_thread", "run_hooks"]


def build_handlers(service: Service, injector: Injector, observed: Observed | None = None) -> Handlers:
    """By type, `<publisher>.<name>`. An event that does not fit its struct fails with Invalid, which names the fields."""
    observed = observed or Observed()
    return {one.type: Handler(_invoke(one, injector, observed), one.alone) for one in service.subscriptions}


@dataclass(frozen=True)
class Observed:
    """Who is told of handlers: `tracing` of those in recorded traces, `meters` (filled here) of all, by type."""

    tracing: Tracing | None = None
    meters: dict[str, Meter] = field(default_factory=dict)


async def run_hooks(hooks: Iterable[Hook], injector: Injector) -> None:
    """Start hooks once providers stand, stop hooks before they are cleaned up."""
    for hook, arguments in hooks:
        await injector.run(hook, arguments)


async def in_thread(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    """Runs a plain function beside the event loop, in a copy of this context."""
    context_copy = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(None, partial(context_copy.run, function, **values))


def _invoke(
    subscription: Subscription, injector: Injector, observed: Observed
) -> Callable[[bytes, Delivery, Any], Awaitable[None]]:
    event = subscription.event
    decode = body_reader(event.type)
    injected = [one for one in subscription.arguments if one.source is not From.EVENT]
    handler = subscription.handler
    is_async = inspect.iscoroutinefunction(handler)
    tracing, meter = observed.tracing, observed.meters.setdefault(subscription.type, Meter())

    async def invoke(body: bytes, delivery: Delivery, transaction: Any) -> None:
        call = Call()
        call.delivery, call.transaction = delivery, transaction
        trace = context.Trace(parent=delivery.traceparent, event_id=delivery.id)
        token = context.enter(trace)
        if tracing is not None:
            tracing.handling(delivery, trace)
        started, outcome = perf_counter(), "failed"
        try:
            values = {event.name: decode(body)}
            await injector.fill(values, injected, call)
            await (handler(**values) if is_async else in_thread(handler, values))
        except BaseException as error:
            await call.close(error)
            raise
        else:
            await call.close()
            outcome = "handled"
            if tracing is not None:
                tracing.handled(delivery)
        finally:
            meter.count(outcome, perf_counter() - started)
            context.leave(token)

    return invoke
