"""Kubernetes manifests: a kustomize base, and overlays that say what differs from place to place. Pure.

`objects` (what holds for every pod) → `workloads` (a file for each part), `network` (who reaches whom), `provisioning` (what
runs once), `overlays`, `bus` (of three servers); `render` puts them together. Read `objects` first.
"""

from atoll.deploy.kubernetes.bus import three_servers
from atoll.deploy.kubernetes.objects import host
from atoll.deploy.kubernetes.render import BUS_FILE, Told, render, secret_generators

__all__ = ["BUS_FILE", "Told", "host", "render", "secret_generators", "three_servers"]
