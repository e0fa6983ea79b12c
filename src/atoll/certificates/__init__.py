"""X.509 certificates with their keys: read from files and checked before anybody uses them, followed while they change, and
made by an authority of one's own.

The rule: what does not fit together, can't be read or is out of time never replaces what is in use; the clock is an
argument. `pair` and `authority` load the cryptography library, so who may have no certificate imports them when there is
one. Read `pair.py` first.
"""
