"""What a check of a site found: each fault with how bad, how many, what, and what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from climb_model.checking.codes import CODES, ERROR, SEVERITIES


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault at a site. Without `who` it names no exam, patient, file or person."""

    code: str
    """Stable name, one of `CODES`."""

    severity: str
    count: int
    what: str
    advice: str
    who: tuple[str, ...] = field(default=(), repr=False)
    """UIDs, file names, patients: for the site's own screen, and only if asked for."""

    def to_dict(self, *, show_ids: bool) -> dict[str, object]:
        """For JSON; `who` only if identifiers may be shown."""
        told: dict[str, object] = {"code": self.code, "count": self.count}
        told |= {"what": self.what, "advice": self.advice}
        return told | {"who": list(self.who)} if show_ids else told


@dataclass(frozen=True, kw_only=True)
class Result:
    """A whole check."""

    findings: tuple[Finding, ...]
    exams: Mapping[str, object]
    """Counts: folders, usable exams, patients, each split, classes per split."""

    @property
    def passed(self) -> bool:
        """Whether nothing must be mended."""
        return not any(finding.severity == ERROR for finding in self.findings)

    def of(self, severity: str) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def to_dict(self, *, show_ids: bool) -> dict[str, object]:
        """The JSON object of `climb-site check --json`."""
        told: dict[str, object] = {
            f"{severity}s": [finding.to_dict(show_ids=show_ids) for finding in self.of(severity)]
            for severity in SEVERITIES
        }
        return told | {"exams": dict(self.exams)}


def found(
    code: str, who: Collection[str] = (), *, count: int | None = None, detail: str = ""
) -> list[Finding]:
    """A finding as a list, empty where nobody has the fault.

    Args:
        code: one of `CODES`.
        who: identifiers of those that have it; each counts once.
        count: where nobody is named.
        detail: said behind the code's own sentence. Must name no exam, patient, file or person.
    """
    named = tuple(sorted({name.encode("utf-8", "backslashreplace").decode() for name in who}))
    number = len(named) if count is None else count
    if not number:
        return []
    kind = CODES[code]
    what = f"{kind.what}: {detail}" if detail else kind.what
    return [
        Finding(code=code, severity=kind.severity, count=number, what=what, advice=kind.advice, who=named)
    ]


def softened(findings: Iterable[Finding], severity: str) -> list[Finding]:
    """The findings with errors turned into something milder: a table that this site's role does not need."""
    return [replace(each, severity=severity) if each.severity == ERROR else each for each in findings]


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, then by code as listed."""
    places = {code: place for place, code in enumerate(CODES)}
    return tuple(sorted(findings, key=lambda each: (SEVERITIES.index(each.severity), places[each.code])))


def spoiled(findings: Iterable[Finding]) -> set[str]:
    """UIDs of exams that cannot be used because of what was found."""
    return {who.split("/")[0] for each in findings if CODES[each.code].spoils for who in each.who}
