"""``make audit``: known vulnerabilities of what requirements.lock installs.

pip-audit asks PyPI. Where PyPI's records cannot be had (no network, a mirror without them) this
says "not audited" and fails nothing. A finding fails, unless audit-accepted.txt names it with a
reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ACCEPTED = ROOT / ".ci" / "audit-accepted.txt"
HOME = ROOT / ".venv-audit"
"""An environment of its own: what audits is no part of what is audited."""

CANARY = "https://pypi.org/pypi/jinja2/2.10/json"
"""A record with known findings: an index without them would make everything look well."""

VERSION = "2.9.0"


def accepted(text: str) -> list[str]:
    """The ids of findings that are accepted.

    Raises:
        ValueError: a line without a reason.
    """
    ids: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, reason = line.strip().partition(" ")
        if not reason.strip():
            raise ValueError(f"line {number}: {name} has no reason; write one behind it")
        ids.append(name)
    return ids


def out_of_reach(address: str = CANARY) -> str | None:
    """Why the records cannot be had, ``None`` if they can."""
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            record = json.load(answer)
    except (OSError, ValueError) as error:
        return f"PyPI's records cannot be had here ({error})"
    if not record.get("vulnerabilities"):
        return "the package index keeps no records of vulnerabilities"
    return None


def tool() -> Path | None:
    """pip-audit's interpreter; ``None`` where it cannot be installed."""
    python = HOME / "bin" / "python"
    if not (HOME / "bin" / "pip-audit").exists():
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", f"pip-audit=={VERSION}"]
        if subprocess.run(install, check=False).returncode != 0:
            return None
    return python


def told(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The findings of pip-audit's report, one line each, and what it could not look at."""
    found = report["dependencies"]
    findings = [
        f"{d['name']} {d['version']}: {v['id']}, mended in {', '.join(v['fix_versions']) or 'none'}"
        for d in found
        for v in d.get("vulns", [])
    ]
    return findings, [d["name"] for d in found if "skip_reason" in d]


def main() -> int:
    """0: nothing found, or not audited; 1: findings, one line each."""
    ignored = accepted(ACCEPTED.read_text(encoding="utf-8"))
    why = out_of_reach()
    python = tool() if why is None else None
    if python is None:
        print(f"not audited: {why or 'pip-audit cannot be installed here'}")
        return 0
    command = [str(python), "-m", "pip_audit", "--requirement", str(ROOT / "requirements.lock")]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command += [part for name in ignored for part in ("--ignore-vuln", name)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        findings, skipped = told(json.loads(done.stdout))
    except (ValueError, KeyError):
        print(f"not audited: pip-audit failed: {done.stderr[-500:].strip()}")
        return 0
    for line in findings:
        print(line)
    if skipped:
        print(f"not audited, for PyPI does not know them: {', '.join(skipped)}")
    print(f"{len(findings)} finding(s)")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
