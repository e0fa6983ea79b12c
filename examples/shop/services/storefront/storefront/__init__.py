"""The storefront. It has no database and hears no events: all it knows, it asks at the gateway with the visitor's token.

`service.py` puts it together; `visit.py` is one visitor's request; pages are in `browsing.py`, `account.py`, `cart.py`
and `history.py`. Everything works without JavaScript.
"""
