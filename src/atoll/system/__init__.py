"""What a system is: the manifest, the services' contracts, the time budgets. Frozen data that everything is computed from.

Nothing here starts, connects or imports a service; only `files` touches a disk. Read `manifest` first, then `contract`.
"""
