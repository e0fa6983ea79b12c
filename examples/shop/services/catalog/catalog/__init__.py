"""The catalog service. `service.py` puts it together; `browsing.py` is what all may ask, `assortment.py` what staff changes."""
