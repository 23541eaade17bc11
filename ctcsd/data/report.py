"""The account of a preparation: sizes per split, drops by reason, warnings, and utterances worth listening to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctcsd.data.checks import Drop, Kept, Limits
from ctcsd.data.splits import in_order
from ctcsd.files import replacing

LISTENED = 20  # how many of the fastest and slowest utterances the report names
LISTENED_CHARACTERS = 10  # below this, the pace says little


def build_report(
    language: str,
    kept: Sequence[Kept],
    dropped: Sequence[tuple[str, Drop]],
    limits: Limits,
    incomplete: Sequence[str] = (),
) -> dict:
    """What report.json holds; minutes are of the audio that is kept. `incomplete`: the recipe's lines on what lacks."""
    paced = sorted(
        (one for one in kept if len(one.text) >= LISTENED_CHARACTERS), key=lambda one: len(one.text) / one.seconds
    )
    return {
        "language": language,
        "utterances": len(kept) + len(dropped),
        "kept": len(kept),
        "dropped": len(dropped),
        "dropped_by_reason": dict(sorted(Counter(drop.reason for _, drop in dropped).items())),
        "incomplete": list(incomplete),
        "warnings": {
            "clipped": sum(one.clipped > limits.warn_clipped for one in kept),
            "turned_down": sum(one.gain < 1 for one in kept),
        },
        "splits": {
            **{
                split: _sizes([one for one in kept if one.split == split])
                for split in in_order(one.split for one in kept)
            },
            "total": _sizes(kept),
        },
        "slowest": [_pace(one) for one in paced[:LISTENED]],
        "fastest": [_pace(one) for one in paced[::-1][:LISTENED]],
    }


def report_text(report: dict) -> str:
    """The report for people: one table, the drops and the warnings."""
    columns = ("utterances", "minutes", "words", "vocabulary", "speakers")
    lines = [f"{'split':<10}" + "".join(f"{name:>12}" for name in columns)]
    for split, sizes in report["splits"].items():
        lines.append(f"{split:<10}" + "".join(f"{sizes[name]:>12,}" for name in columns))
    lines.append(f"dropped {report['dropped']:,} of {report['utterances']:,}" + (":" if report["dropped"] else ""))
    lines += [f"  {count:>6,}  {reason}" for reason, count in report["dropped_by_reason"].items()]
    lines += [f"incomplete: {line}" for line in report["incomplete"]]
    warnings = report["warnings"]
    lines.append(
        f"kept, but clipped: {warnings['clipped']:,}; "
        f"turned down, because above full scale: {warnings['turned_down']:,}"
    )
    return "\n".join(lines) + "\n"


def write_drops(path: Path, drops: Iterable[tuple[str, Drop]]) -> None:
    """A line per drop, `id<TAB>reason<TAB>detail`, under a header; what is not printable is escaped."""
    rows = [("id", "reason", "detail"), *((name, drop.reason, drop.detail) for name, drop in drops)]
    lines = ("\t".join(_printable(cell) for cell in row) + "\n" for row in rows)
    with replacing(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def _printable(cell: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(cell.split()))


def _sizes(kept: Sequence[Kept]) -> dict:
    words = [word for one in kept for word in one.text.split()]
    return {
        "utterances": len(kept),
        "minutes": round(sum(one.seconds for one in kept) / 60, 1),
        "words": len(words),
        "vocabulary": len(set(words)),
        "speakers": len({one.speaker for one in kept}),
    }


def _pace(one: Kept) -> dict:
    return {"id": one.name, "seconds": round(one.seconds, 2), "text": one.text_raw}
