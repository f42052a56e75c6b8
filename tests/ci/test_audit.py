"""The audit says plainly where it could not look, and accepts nothing without a reason."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def audit() -> ModuleType:
    file = Path(__file__).parents[2] / ".ci" / "audit.py"
    spec = importlib.util.spec_from_file_location("fst_audit", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_accepted_finding_has_a_reason(audit: ModuleType) -> None:
    text = "# why\n\nGHSA-1 only on Windows\nPYSEC-2 \n"
    with pytest.raises(ValueError, match="line 4: PYSEC-2 has no reason"):
        audit.accepted(text)
    assert audit.accepted(text.replace("PYSEC-2 ", "PYSEC-2 not called")) == ["GHSA-1", "PYSEC-2"]
    assert audit.accepted(audit.ACCEPTED.read_text()) is not None


def test_records_are_there_or_it_is_said_why_not(audit: ModuleType, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    assert "cannot be had" in audit.out_of_reach(record.as_uri())
    record.write_text("<html>")
    assert "cannot be had" in audit.out_of_reach(record.as_uri())
    record.write_text("{}")
    assert "no records" in audit.out_of_reach(record.as_uri())
    record.write_text(json.dumps({"vulnerabilities": []}))
    assert "no records" in audit.out_of_reach(record.as_uri())
    record.write_text(json.dumps({"vulnerabilities": [{"id": "GHSA-1"}]}))
    assert audit.out_of_reach(record.as_uri()) is None


def test_what_could_not_be_looked_at_fails_nothing(
    audit: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "out_of_reach", lambda: "no network")
    assert audit.main() == 0
    assert capsys.readouterr().out == "not audited: no network\n"


def test_a_finding_is_a_line_and_what_was_left_out_is_named(audit: ModuleType) -> None:
    known = {"name": "a", "version": "1", "vulns": [{"id": "GHSA-1", "fix_versions": ["2"]}]}
    report = {"dependencies": [known, {"name": "b", "skip_reason": "not found"}]}
    assert audit.told(report) == (["a 1: GHSA-1, mended in 2"], ["b"])
