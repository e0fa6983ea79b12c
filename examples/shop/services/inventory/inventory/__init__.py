"""The inventory service. `reservations.py` holds the rules, `counting.py` what people ask, `following.py` what events say."""
