"""Comparing what a second service would have answered: the process beside the gateway that mirrors hand their samples to.

Envoy captures a request and its answer and sends both here when the client has its answer (`xds/capture.lua`); here the second
service is asked the same, the answers are compared, and what differs is counted in a bounded report, `.atoll/mirror/NAME.json`.
The rule: no client ever waits for anything in here, and nothing in here grows without bound. Read `samples.py` first, then
`differences.py`. Which requests are sampled says `gateway/sampling.py`, how Envoy captures them `xds/capture.py`.
"""
