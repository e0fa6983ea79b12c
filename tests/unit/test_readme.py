"""The README says what is true: its service is the one that is type-checked, its tests exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_service_in_the_readme_is_the_one_that_mypy_and_pyright_check() -> None:
    [service] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

    assert service == (ROOT / "tests" / "typing" / "reviews.py").read_text()


def test_every_test_that_the_readme_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", README)

    assert len(named) >= 5
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text() if test else (ROOT / file).is_file(), (file, test)


def test_every_file_that_the_readme_names_exists() -> None:
    for name in re.findall(r"\b((?:docs|src|examples|tests|benchmarks)/[\w/.-]*\w(?:\.md|\.py|/))", README):
        assert (ROOT / name).exists(), name


def test_the_service_in_the_readme_has_a_contract() -> None:
    from atoll.service.describe import describe
    from atoll.system.contract import Contract
    from tests.typing.reviews import service

    contract = Contract.parse(describe(service))

    assert [(one.method, one.path, one.scope) for one in contract.operations] == [("POST", "/reviews", "reviews:write")]
    assert [one.name for one in contract.publishes] == ["review_written"]
