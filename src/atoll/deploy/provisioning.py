"""What provision reads: the system's document, the contracts that hold, and those of other versions that run beside. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from atoll.deploy.plan import Plan
from atoll.provision.document import system_document
from atoll.provision.job import CANARIES_FOLDER, CONTRACT_FOLDERS, CONTRACTS_FOLDER, FORMER_FOLDER, SYSTEM_FILE
from atoll.system.contract import Contract, canonical

__all__ = ["canary_file", "contract_file", "contracts_in", "former", "former_file", "texts", "tried"]

_FOLDER = "provision"


def texts(plan: Plan) -> dict[str, str]:
    """By path."""
    return {
        f"{_FOLDER}/{SYSTEM_FILE}": json.dumps(system_document(plan.system, _weights(plan)), indent=1) + "\n",
        **{f"{_FOLDER}/{contract_file(name)}": _text(one) for name, one in plan.contracts.items()},
        **{f"{_FOLDER}/{canary_file(name)}": _text(one) for name, one in tried(plan).items()},
        **{f"{_FOLDER}/{former_file(one)}": _text(one) for one in plan.former},
    }


def contract_file(name: str) -> str:
    return f"{CONTRACTS_FOLDER}/{name}.json"


def tried(plan: Plan) -> dict[str, Contract]:
    """The contracts of canaries, by service."""
    return {name: part.contract for name, part in plan.canaries.items() if part.contract}


def _weights(plan: Plan) -> dict[str, int]:
    return {spec.name: spec.canary.weight for spec in plan.system.services if spec.canary and spec.name in plan.canaries}


def canary_file(name: str) -> str:
    return f"{CANARIES_FOLDER}/{name}.json"


def former_file(one: Contract) -> str:
    return f"{FORMER_FOLDER}/{one.service}.{one.digest}.json"


def _text(one: Contract) -> str:
    return canonical(one.document).decode() + "\n"


def former(rendered: Mapping[str, str], plan: Plan) -> tuple[Contract, ...]:
    """Contracts rendered before whose replicas may do on the bus what those of the present ones may not.

    That is to consume: each service publishes whatever it likes in its own name.
    """
    before = {(one.service, one.digest): one for one in _before(rendered)}
    trials = tried(plan)
    present = {name: one.beside(trials.get(name, one)) for name, one in plan.contracts.items()}
    return tuple(one for key, one in sorted(before.items()) if key[0] in present and not _covered(one, present[key[0]]))


def _before(rendered: Mapping[str, str]) -> Iterator[Contract]:
    for folder in CONTRACT_FOLDERS:
        yield from contracts_in(rendered, folder).values()


def _covered(old: Contract, new: Contract) -> bool:
    return all(set(names) <= set(new.sources.get(source, ())) for source, names in old.sources.items())


def contracts_in(rendered: Mapping[str, str], folder: str = CONTRACTS_FOLDER) -> dict[str, Contract]:
    """Those of rendered files, by the file's name. Raises SystemMistake for one that can't be read."""
    found = {path: text for path, text in sorted(rendered.items()) if PurePosixPath(path).parent.match(f"{_FOLDER}/{folder}")}
    return {PurePosixPath(path).stem: Contract.parse(json.loads(text), where=path) for path, text in found.items()}
