"""The rehearsal: rotate, withdraw and revoke while requests are on their way, and count what was refused or taken wrongly.

    python -m tests.chaos.rehearsal --rounds 20 --seed 7

Each fact is timed from the request that makes it so to the last request that was still accepted when it was begun, at the
gateway and, past it, at the service. None may be accepted that was begun more than a second after the answer. How long that
answer took is told from the gateway's log: the clients share one process, which on a busy machine waits longer than they do.
Everything is seeded but the machine's own timing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from atoll.host.control import ask
from atoll.host.layout import Layout
from tests.support.auth import claims_of, kid_of
from tests.support.system import RunningSystem, running
from tests.support.waiting import until

__all__ = ["CONFIRMING", "PROMISE_S", "Findings", "Plan", "rehearse"]

PROMISE_S = 1.0
FACTS = ("rotate", "withdraw", "sign out", "end all of a user", "stolen copy", "delete an API key")
CONFIRMING = {
    "auth.withdraw": "withdraw",
    "auth.end_session": "sign out",
    "auth.end_sessions_of_user": "end all of a user",
    "auth.delete_api_key": "delete an API key",
}
"""Operations whose answer says that something has ended. (A stolen copy's is one of many answers of `auth.token`.)"""
_ROTATABLE_S = 10.0
_LOGGED_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds` of all facts, in an order that `seed` chooses, under `width` clients that never pause."""

    rounds: int
    seed: int
    width: int = 6


@dataclass(slots=True)
class Findings:
    """`false` and `late` must be empty. `took_s` has propagation times by fact and door, `answered_s` how long the gateway took
    to answer that it is so, `requests` is what the load did.
    """

    false: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    took_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    answered_s: dict[str, list[float]] = field(default_factory=dict)
    requests: int = 0

    def table(self) -> str:
        lines = ["| fact | | times | median | longest |", "| --- | --- | --- | --- | --- |"]
        rows = {(fact, f"refused at the {door}"): times for (fact, door), times in self.took_s.items()}
        rows |= {(fact, "answered"): times for fact, times in self.answered_s.items()}
        for (fact, what), times in sorted(rows.items()):
            lines.append(f"| {fact} | {what} | {len(times)} | {median(times) * 1000:.0f} ms | {max(times) * 1000:.0f} ms |")
        lines += ["", f"{self.requests} requests; {len(self.false)} false 401; {len(self.late)} acceptances later than 1 s"]
        return "\n".join(lines)


@dataclass
class _Signed:
    """An access token with what an operator could end about it."""

    access: str
    refresh: str = ""
    api_key: str = ""

    @classmethod
    def of(cls, answer: httpx.Response) -> _Signed:
        answer.raise_for_status()
        granted = answer.json()
        return cls(granted["access_token"], granted.get("refresh_token", ""))

    @property
    def headers(self) -> dict[str, str]:
        if self.api_key:
            return {"x-api-key": self.api_key}
        return {"authorization": f"Bearer {self.access}"}

    @property
    def session(self) -> str:
        return str(claims_of(self.access)["sid"])


class Rehearsal:
    """One running system and everybody who calls it. `ended` are sessions and keys that may be refused."""

    def __init__(self, system: RunningSystem, http: httpx.AsyncClient, plan: Plan) -> None:
        self.findings = Findings()
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._http = http
        self._doors = {"gateway": system.url, "service": f"http://127.0.0.1:{system.processes()['vault-1']['port']}"}
        self._url = system.url
        self._log = Layout(system.folder).gateway / "access.log"
        self._secret = str(ask(Layout(system.folder), {"do": "operator"})["secret"])
        self._ended: set[str] = set()
        self._running = True

    async def run(self) -> Findings:
        load = [asyncio.create_task(self._client(number)) for number in range(self._plan.width)]
        try:
            for _ in range(self._plan.rounds):
                for fact in self._random.sample(FACTS, len(FACTS)):
                    await self._make(fact)
        finally:
            self._running = False
            await asyncio.gather(*load)
        await until(self._is_logged, _LOGGED_S, "the gateway's log has every answer")
        return self.findings

    async def _is_logged(self) -> bool:
        """Envoy writes its log once a second."""
        answered: dict[str, list[float]] = {fact: [] for fact in CONFIRMING.values()}
        for line in map(json.loads, self._log.read_text().splitlines()):
            if line["operation"] in CONFIRMING:
                answered[CONFIRMING[line["operation"]]].append(line["duration_ms"] / 1000)
        self.findings.answered_s = answered
        return all(len(times) >= self._plan.rounds for times in answered.values())

    # the load: a 401 is false unless the client's session was ended or its key withdrawn

    async def _client(self, number: int) -> None:
        signed = await self._sign_in("reader")
        while self._running:
            door = ("gateway", "service")[self.findings.requests % 2]
            answer = await self._http.get(f"{self._doors[door]}/vault/caller", headers=signed.headers)
            self.findings.requests += 1
            if answer.status_code != 200:
                if not self._ended & {signed.session, kid_of(signed.access)}:
                    self.findings.false.append(f"client {number} at the {door}: {answer.status_code} {answer.text[:200]}")
                signed = await self._sign_in("reader")

    # facts

    async def _make(self, fact: str) -> None:
        match fact:
            case "rotate":
                await self._rotate()
            case "withdraw":
                await self._withdraw()
            case "sign out":
                signed = await self._sign_in("reader")
                path = f"/auth/sessions/{signed.session}"
                await self._watch(
                    fact, signed, signed.session, lambda: self._http.delete(self._url + path, headers=signed.headers)
                )
            case "end all of a user":
                await self._end_user(fact)
            case "stolen copy":
                await self._steal(fact)
            case "delete an API key":
                await self._delete_key(fact)

    async def _rotate(self) -> None:
        """Nothing is refused: the load, whose tokens the former key signed, goes on, and so do tokens of the next key."""
        operator = await self._operator()

        async def done() -> bool:
            answer = await self._http.post(f"{self._url}/auth/keys/rotation", headers=operator.headers)
            return answer.status_code == 200

        await until(done, _ROTATABLE_S, "the next key is known")
        signed = await self._sign_in("outsider")
        for door, url in self._doors.items():
            answer = await self._http.get(f"{url}/vault/caller", headers=signed.headers)
            if answer.status_code != 200:
                self.findings.false.append(f"after a rotation at the {door}: {answer.status_code} {answer.text[:200]}")

    async def _withdraw(self) -> None:
        signed, operator = await self._sign_in("outsider"), await self._operator()
        kid = kid_of(signed.access)
        await self._watch("withdraw", signed, kid, lambda: self._delete(f"/auth/keys/{kid}", operator))

    async def _end_user(self, fact: str) -> None:
        signed, operator = await self._sign_in("outsider"), await self._operator()
        path = f"/auth/users/{claims_of(signed.access)['sub']}/sessions"
        await self._watch(fact, signed, signed.session, lambda: self._delete(path, operator))

    async def _steal(self, fact: str) -> None:
        """A refresh token is used a second time: whoever did it, the session's access tokens end."""
        signed = await self._sign_in("outsider")
        await self._refresh(signed)
        await self._watch(fact, signed, signed.session, lambda: self._refresh(signed))

    async def _delete_key(self, fact: str) -> None:
        """At the gateway alone: a service takes no key."""
        operator, url = await self._operator(), f"{self._url}/auth/clients/batch/keys"
        made = (await self._http.post(url, json={}, headers=operator.headers)).json()
        keyed, path = _Signed("", api_key=made["key"]), f"/auth/clients/batch/keys/{made['id']}"
        await self._watch(fact, keyed, made["id"], lambda: self._delete(path, operator))

    async def _watch(self, fact: str, signed: _Signed, what: str, make: Callable[[], Any]) -> None:
        """Asks with a token without a pause while `make` ends it, until every door has refused it for a while."""
        doors = {"gateway": self._url} if signed.api_key else self._doors
        await asyncio.gather(*(self._accepted(url, signed) for url in doors.values()))
        asking = {door: [asyncio.create_task(self._ask(url, signed)) for _ in range(2)] for door, url in doors.items()}
        self._ended.add(what)
        wanted = time.monotonic()
        await make()
        made = time.monotonic()
        for door, tasks in asking.items():
            last = max(await asyncio.gather(*tasks))
            self.findings.took_s.setdefault((fact, door), []).append(max(0.0, last - wanted))
            if last - made > PROMISE_S:
                self.findings.late.append(f"{fact}: accepted at the {door} {last - made:.2f} s after it was confirmed")

    async def _ask(self, url: str, signed: _Signed) -> float:
        """When the last request that was accepted was begun: ends when ten in a row were refused."""
        last, refused = 0.0, 0
        while refused < 10:
            begun = time.monotonic()
            answer = await self._http.get(f"{url}/vault/caller", headers=signed.headers)
            refused = refused + 1 if answer.status_code == 401 else 0
            last = last if refused else begun
        return last

    async def _accepted(self, url: str, signed: _Signed) -> None:
        (await self._http.get(f"{url}/vault/caller", headers=signed.headers)).raise_for_status()

    async def _sign_in(self, user: str) -> _Signed:
        form = {"grant_type": "password", "username": user, "password": f"{user}'s own"}
        return _Signed.of(await self._http.post(f"{self._url}/auth/token", data=form))

    async def _refresh(self, signed: _Signed) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": signed.refresh}
        return await self._http.post(f"{self._url}/auth/token", data=form)

    async def _operator(self) -> _Signed:
        form = {"grant_type": "client_credentials", "client_id": "operator", "client_secret": self._secret}
        return _Signed.of(await self._http.post(f"{self._url}/auth/token", data=form))

    async def _delete(self, path: str, by: _Signed) -> None:
        (await self._http.delete(self._url + path, headers=by.headers)).raise_for_status()


async def rehearse(system: RunningSystem, plan: Plan) -> Findings:
    """On a running copy of the system `guarded`."""
    async with _client(plan) as http:
        return await Rehearsal(system, http, plan).run()


@asynccontextmanager
async def _client(plan: Plan) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=2 * plan.width + 20)
    async with httpx.AsyncClient(timeout=20, limits=limits) as http:
        yield http


def main() -> int:
    parser = argparse.ArgumentParser(description="Rotate, withdraw and revoke under load.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running("guarded", Path(folder) / "guarded") as system:
        found = asyncio.run(rehearse(system, Plan(given.rounds, given.seed)))
    sys.stdout.write(found.table() + "\n")
    for wrong in (*found.false, *found.late):
        sys.stdout.write(f"WRONG {wrong}\n")
    return 1 if found.false or found.late else 0


if __name__ == "__main__":
    sys.exit(main())
