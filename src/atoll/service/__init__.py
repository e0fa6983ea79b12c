"""What service authors import: Service, operations, event handlers, injection, settings, and the process that runs them.

The rule: declaring is data. A `Service` connects to nothing, reads nothing and registers nowhere; contracts are derived from
it (`describe`), and a process is built from it (`process`). Read first: `service.py`, then `operations.py` (what a signature
means) and `http.py` (what happens to a request).

How a running service is put together, by `process` and by `atoll.testing`:

    sources = Sources.of(environment.settings, folder, os.environ)      # settings.py
    injector = Injector(service, database=database, sources=sources)    # SystemMistake names every faulty setting
    app = build_app(service, database=database, verify=verify, injector=injector)    # http.py: an ASGI application
    handlers = build_handlers(service, injector)                        # handlers.py: delivery.handling.Handlers, by type
    await injector.start(); await run_hooks(service.start_hooks, injector)
    …
    await run_hooks(service.stop_hooks, injector); await injector.close()

`database` is of `service.flavour` and is given `service.encode`. `verify(token) -> Principal` raises Unauthorized.
`service.operations` and `service.subscriptions` are frozen data.
"""
