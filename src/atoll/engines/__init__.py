"""Finds and runs the engines atoll assembles: Envoy, NATS, PostgreSQL, MongoDB, one module each.

Every engine module gives `find` (explicit path beats PATH beats wheel), `version`, `command` (what the host supervises) and
`ready`. The rule it keeps: nothing here knows what a service is; configuration is made by whoever uses an engine, except for
what the engine needs to run at all. A missing engine is an EngineOutage with one clear line. Read `process` first.
"""
