"""Runs a system on this machine: engines, gateway, auth and services as supervised processes, without orphans.

The rule: a pure plan first (`processes`: system, contracts, ports and credentials become process specifications), then
one supervisor that starts it in dependency order and keeps it running. A process is never started outside the guard.
Services are known by name and contract, never by import. Read `processes` first, then `supervise`, then `host`.
"""
