"""The catalog service. `service.py` puts it together; `browsing.py` is what everybody asks, `assortment.py` what staff changes."""
