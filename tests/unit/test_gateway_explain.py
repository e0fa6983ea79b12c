"""What is said of a request that is not made: where it ends, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from atoll.gateway.explain import Explanation, Question, Step, explain
from atoll.gateway.ir import Endpoint, Gateway, Listener
from atoll.gateway.known import MirrorEntry, ServiceEntry
from atoll.gateway.logged import Left
from atoll.gateway.translate import translate
from atoll.system.rates import Rate
from atoll.tokens import sign
from atoll.tokens.keys import KeySet
from tests.support.gateway import contract, known, replica
from tests.support.tokens import Mint

MINT = Mint()
READ = [{"token": ["orders:read"]}]
ORDERS = contract(
    "orders",
    {
        "/orders": {"get": {"operationId": "mine", "security": READ}, "post": {"operationId": "place"}},
        "/orders/{id}": {"get": {"operationId": "one", "security": READ}},
        "/orders/search": {"get": {"operationId": "search", "security": []}},
        "/elsewhere": {"get": {"operationId": "stray"}},
    },
)
HEALTHY = {("orders", "127.0.0.1:2101"): "healthy", ("orders", "127.0.0.1:2102"): "failed_active_health_check"}


def planned(**changes: object) -> Gateway:
    replicas = (replica(ORDERS, "orders-1", "127.0.0.1:2101"), replica(ORDERS, "orders-2", "127.0.0.1:2102"))
    what = known(ORDERS, replicas=replicas, **changes)
    return translate(replace(what, keys=MINT.key_set), Listener("127.0.0.1", 8080))


def asked(
    method: str, path: str, token: str | None = None, health: Mapping[tuple[str, str], str] | None = HEALTHY, now: float = 0
) -> Explanation:
    return explain(planned(), Question(method, path, token, now or MINT.claims().iat, health))


def last(found: Explanation) -> Step:
    return found.steps[-1]


def test_a_request_that_would_pass_names_route_token_scope_and_replicas() -> None:
    claims = MINT.claims("ada")
    found = asked("GET", "/orders/42", sign(claims, MINT.key), now=claims.iat)

    assert found.status is None
    assert [step.what for step in found.steps] == ["route", "token", "scope", "limits", "replicas"]
    assert found.steps[0].says == "orders.one: GET /orders/{id}"
    assert found.steps[1].says.startswith("ada, good for 5 min 0 s more")
    assert found.steps[1].says.endswith("scopes: orders:read orders:write")
    assert last(found).says == "orders: 127.0.0.1:2101 healthy, 127.0.0.1:2102 failed_active_health_check"


def test_a_public_operation_needs_no_token() -> None:
    assert asked("GET", "/orders/search").status is None


def test_a_missing_token_ends_it() -> None:
    found = asked("GET", "/orders/42")

    assert (found.status, last(found).facts["code"]) == (401, "token_missing")


def test_a_missing_scope_is_named_beside_those_that_are_there() -> None:
    found = asked("GET", "/orders/42", MINT.token(scope="orders:write"))

    assert (found.status, last(found).says) == (403, "the token lacks orders:read")
    assert last(found).facts == {"needed": "orders:read", "has": ["orders:write"], "missing": "orders:read"}


def test_an_expired_token_is_told_with_since_when() -> None:
    claims = MINT.claims()

    found = asked("GET", "/orders/42", MINT.token(iat=claims.iat - 600, exp=claims.iat - 125), now=claims.iat)

    assert found.status == 401
    assert last(found).says.startswith("the token has expired, 2 min 5 s ago")


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (MINT.wrong_issuer(), "token_issuer"),
        (MINT.wrong_audience(), "token_audience"),
        (Mint().token(), "token_key"),
        (MINT.unsigned(), "token_algorithm"),
        ("nonsense", "token_malformed"),
    ],
)
def test_a_bad_token_is_told_with_what_is_wrong(token: str, code: str) -> None:
    found = asked("GET", "/orders/42", token)

    assert (found.status, last(found).facts["code"]) == (401, code)


def test_a_session_that_was_ended_is_told_though_its_token_is_good() -> None:
    ended = replace(planned(), ended_sessions=(MINT.claims().sid,))

    found = explain(ended, Question("GET", "/orders/42", MINT.token(), MINT.claims().iat, HEALTHY))

    assert (found.status, last(found).facts["code"]) == (401, "token_revoked")


def test_without_keys_no_token_can_be_good() -> None:
    gateway = planned()
    keyless = replace(gateway, issuer=replace(gateway.issuer, keys=KeySet()))

    found = explain(keyless, Question("GET", "/orders/42", MINT.token(), MINT.claims().iat, HEALTHY))

    assert (found.status, last(found).says) == (401, "no key set has arrived yet, so no token can be verified")


def test_another_method_says_which_there_are() -> None:
    found = asked("DELETE", "/orders")

    assert (found.status, last(found).says) == (405, "/orders takes GET, HEAD, POST, OPTIONS, not DELETE")


def test_options_are_answered_by_the_gateway() -> None:
    found = asked("OPTIONS", "/orders")

    assert found.status == 204
    assert last(found).facts["allow"] == ["GET", "HEAD", "POST", "OPTIONS"]


def test_a_path_that_is_nobodys_names_the_nearest() -> None:
    found = asked("GET", "/order/search")

    assert found.status == 404
    assert "/orders/search" in last(found).facts["nearest"]


def test_a_path_under_a_prefix_names_whose_it_would_be() -> None:
    found = asked("GET", "/orders/a/b")

    assert found.status == 404
    assert "the service with the prefix /orders" in last(found).says


def test_an_operation_that_was_left_out_is_told_with_the_fault() -> None:
    found = asked("GET", "/elsewhere")

    assert found.status == 404
    assert "orders.stray: GET /elsewhere has no route: its paths must be under /orders" in last(found).says


def test_health_checks_are_explained() -> None:
    assert "never routed" in last(asked("GET", "/health/ready")).says


def test_a_path_is_shown_as_the_gateway_reads_it() -> None:
    assert asked("GET", "//orders/../orders/%34%32", MINT.token()).steps[0].says == "the path is read as /orders/42"


def test_what_is_no_path_is_refused() -> None:
    assert asked("GET", "/orders/%2Fetc").status == 400


def test_without_a_healthy_replica_it_is_503() -> None:
    found = asked("GET", "/orders/search", health=dict.fromkeys(HEALTHY, "failed_outlier_check"))

    assert found.status == 503


def test_an_envoy_that_does_not_answer_says_nothing_of_replicas() -> None:
    found = asked("GET", "/orders/search", health=None)

    assert (found.status, last(found).facts["replicas"][0]["health"]) == (None, "not asked")


def test_a_service_without_replicas_is_503() -> None:
    found = explain(translate(known(ORDERS), Listener("127.0.0.1", 8080)), Question("GET", "/orders/search"))

    assert (found.status, last(found).says) == (503, "orders has none: nobody announced one")


def test_the_rates_that_would_count_are_named() -> None:
    limited = contract("orders", {"/orders": {"get": {"operationId": "mine", "security": [], "x-atoll-rate-limit": "10/s"}}})
    gateway = translate(known(limited, replicas=(replica(limited, "orders-1", "127.0.0.1:2101"),)), Listener("", 1))
    both = replace(gateway, limits=replace(gateway.limits, client=Rate(600, "min"), gateways=2))

    (limits,) = [step for step in explain(both, Question("GET", "/orders")).steps if step.what == "limits"]

    assert limits.says.startswith(
        "10/s of this operation for each address and 600/min of all operations for each address, shared by 2 gateways"
    )
    assert limits.facts == {
        "operation": "10/s",
        "client": "600/min",
        "address": None,
        "gateways": 2,
        "counted_for": None,
        "left": None,
    }


def test_it_is_told_whose_bucket_counts_a_subjects_or_an_api_keys() -> None:
    limited = contract("orders", {"/orders": {"get": {"security": [{"token": []}], "x-atoll-rate-limit": "10/s"}}})
    what = known(limited, replicas=(replica(limited, "orders-1", "127.0.0.1:2101"),))
    gateway = translate(replace(what, keys=MINT.key_set), Listener("", 1))

    def counted(token: str) -> tuple[str, object]:
        found = explain(gateway, Question("GET", "/orders", token, MINT.claims().iat))
        (limits,) = [step for step in found.steps if step.what == "limits"]
        return limits.says.partition(";")[0], limits.facts["counted_for"]

    assert counted(MINT.token("ada")) == ("10/s of this operation for each subject", "ada")
    assert counted(MINT.token("batch", atoll_key="key-1")) == ("10/s of this operation for each API key", "key-1")


LIMITED = contract("orders", {"/orders": {"get": {"operationId": "mine", "x-atoll-rate-limit": "10/min"}}})


def _limits(token: str, now: float, left: Left | None) -> Step:
    what = known(LIMITED, replicas=(replica(LIMITED, "orders-1", "127.0.0.1:2101"),))
    gateway = translate(replace(what, keys=MINT.key_set), Listener("", 1))
    seen = {("orders.mine", "ada"): left}
    found = explain(gateway, Question("GET", "/orders", token, now, None, lambda *whose: seen.get(whose)))
    (limits,) = [step for step in found.steps if step.what == "limits"]
    return limits


@pytest.mark.parametrize(
    ("since_s", "says"),
    [
        (5, "3 of 10 were left 5 s ago, after the last request, and all 42 s after that"),
        (42, "all 10 are left again, 42 s after the last request"),
    ],
)
def test_what_is_left_of_a_limit_is_told_as_of_the_last_request(since_s: int, says: str) -> None:
    now = float(MINT.claims().iat)

    limits = _limits(MINT.token("ada"), now, Left(now - since_s, limit=10, remaining=3, reset_s=42))

    assert limits.says == f"10/min of this operation for each subject; {says}"
    assert limits.facts["left"] == {"time": now - since_s, "limit": 10, "remaining": 3, "reset_s": 42}


def test_nothing_is_told_of_what_is_left_when_it_is_somebody_elses_or_an_api_keys() -> None:
    now = float(MINT.claims().iat)
    left = Left(now, limit=10, remaining=3, reset_s=42)

    for token in (MINT.token("ben"), MINT.token("ada", atoll_key="key-1")):
        assert _limits(token, now, left).facts["left"] is None


def test_what_clients_may_keep_is_told_as_the_contract_has_it() -> None:
    kept = {"headers": {"Cache-Control": {"schema": {"const": "public, max-age=5"}}, "ETag": {"schema": {"type": "string"}}}}
    cached = contract("orders", {"/orders": {"get": {"security": [], "responses": {"200": kept}}, "post": {"security": []}}})
    gateway = translate(known(cached, replicas=(replica(cached, "orders-1", "127.0.0.1:2101"),)), Listener("", 1))

    assert last(explain(gateway, Question("GET", "/orders"))).facts == {"cache_control": "public, max-age=5"}
    assert last(explain(gateway, Question("POST", "/orders"))).what == "replicas"


def test_the_fallback_gets_what_nobody_owns() -> None:
    services = {
        "orders": ServiceEntry(kind="service", prefix="/orders", digests=(ORDERS.digest,)),
        "legacy": ServiceEntry("service", "/legacy"),
    }
    made = known(ORDERS, replicas=(replica(contract("legacy", {}), "legacy-1", "127.0.0.1:2103"),))
    system = type(made.system)("shop", "", MINT.issuer, MINT.audience, services, fallback="legacy")

    found = explain(translate(replace(made, system=system), Listener("", 1)), Question("PATCH", "/old/page"))

    assert (found.status, found.steps[0].facts["name"]) == (None, "legacy.fallback")


def test_the_gateways_own_pages_are_answered_by_itself() -> None:
    assert asked("GET", "/openapi.json").status == 200


# two versions, and mirrors


def trial(percent: int) -> Gateway:
    replicas = (replica(ORDERS, "orders-1", "127.0.0.1:2101"), replica(ORDERS, "orders-canary-1", "127.0.0.1:2109"))
    entry = ServiceEntry(kind="service", prefix="/orders", digests=(ORDERS.digest,), canary_percent=percent)
    what = known(ORDERS, replicas=replicas, services={"orders": entry})
    return translate(replace(what, keys=MINT.key_set), Listener("127.0.0.1", 8080))


STABLE_IS_DOWN = {
    ("orders", "127.0.0.1:2101"): "failed_active_health_check",
    ("orders@canary", "127.0.0.1:2109"): "healthy",
}
ALL_ARE_UP = {**STABLE_IS_DOWN, ("orders", "127.0.0.1:2101"): "healthy"}


def test_a_canary_that_has_everybody_is_the_only_one_that_counts() -> None:
    found = explain(trial(100), Question("GET", "/orders/search", health=STABLE_IS_DOWN))

    assert (found.status, last(found).says) == (None, "orders@canary: 127.0.0.1:2109 healthy")


def test_both_versions_are_told_with_their_shares() -> None:
    found = explain(trial(30), Question("GET", "/orders/search", health=STABLE_IS_DOWN))

    shares = "answered for 30 of a hundred clients by orders@canary and 70 of a hundred clients by orders"
    assert found.steps[0].says == f"orders.search: GET /orders/search, {shares}"
    assert [(step.passed, step.says) for step in found.steps if step.what == "replicas"] == [
        (True, "orders@canary for 30 of a hundred clients: 127.0.0.1:2109 healthy"),
        (
            False,
            "orders for 70 of a hundred clients has no healthy one: 127.0.0.1:2101 failed_active_health_check",
        ),
    ]
    assert found.status is None


def test_with_a_token_the_one_version_is_told_that_its_owner_meets() -> None:
    """The sums are held to a real Envoy in tests/e2e/test_gateway_canary.py."""
    said = {
        last(explain(trial(50), Question("GET", "/orders/42", MINT.token(sub=name), MINT.claims().iat, ALL_ARE_UP))).says
        for name in (f"person-{number}" for number in range(20))
    }

    assert {one.partition(",")[0] for one in said} == {"orders", "orders@canary"}
    assert all("'s: 127.0.0.1:" in one for one in said)


def test_without_any_replica_of_either_version_the_gateway_answers() -> None:
    nobody = {**STABLE_IS_DOWN, ("orders@canary", "127.0.0.1:2109"): "failed_active_health_check"}
    found = explain(trial(30), Question("GET", "/orders/search", health=nobody))

    assert (found.status, [step.passed for step in found.steps if step.what == "replicas"]) == (503, [False, False])


def test_what_is_sampled_for_a_mirror_is_told() -> None:
    second = contract("orders_next", {})
    mirrors = {"next": MirrorEntry(primary="orders", second="orders_next", share=0.05)}
    what = known(ORDERS, second, replicas=(replica(ORDERS, "orders-1", "127.0.0.1:2101"),), mirrors=mirrors)
    gateway = translate(what, Listener("127.0.0.1", 8080, comparer=Endpoint("127.0.0.1", 2300)))

    found = explain(gateway, Question("GET", "/orders/search"))
    assert last(found).says == "next: 5 % of these requests are sent to orders_next too, whose answers no client gets"
    assert last(found).facts == {"mirror": "next", "second": "orders_next", "share": 0.05}
    assert found.status is None


def test_of_the_fallback_only_the_paths_that_are_compared_are_told_as_sampled() -> None:
    legacy, second = contract("legacy", {}), contract("reviews", {})
    mirrors = {"carve": MirrorEntry(primary="legacy", second="reviews", paths=("/reviews",), share=0.5)}
    what = known(legacy, second, replicas=(replica(legacy, "legacy-1", "127.0.0.1:2103"),), fallback="legacy", mirrors=mirrors)
    gateway = translate(what, Listener("127.0.0.1", 8080, comparer=Endpoint("127.0.0.1", 2300)))

    def sampled(method: str, path: str) -> bool:
        return any(step.what == "mirror" for step in explain(gateway, Question(method, path)).steps)

    assert [sampled(*one) for one in (("GET", "/reviews/7"), ("POST", "/reviews/7"), ("GET", "/basket"))] == [
        *(True, False, False)
    ]
