"""What the gateway costs per request, beside the gateways that others would put there, in one run."""
