"""The same system as files for container hosts: images, Compose and Kubernetes.

The rule it keeps: pure functions from manifest and accepted contracts to texts; the same input gives the same files, and none
but those below `secrets/` hold a secret. Disk, network and engine are touched in one thin module each: `files`, `wheels` and
`docker`.

`plan` (which parts there are) → `images` (a build context for each), `compose` (a Compose file and what it mounts) and
`kubernetes` (manifests).
`changes` says what rendering again would change. `builds` and `rollout` act on an engine. Read `plan` first.
"""
