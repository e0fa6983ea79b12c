"""The payments service. `charging.py` is the saga's part, `provider.py` the card provider, `looking.py` what people ask."""
