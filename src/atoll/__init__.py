"""atoll: the microservices architecture as one Python package."""
