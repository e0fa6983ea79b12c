"""The notifications service. `writing.py` turns events into messages, `reading.py` shows them, `tail.py` streams them."""
