"""The orders service. `service.py` puts it together; `buying.py` is what customers ask, `saga.py` what events change."""
