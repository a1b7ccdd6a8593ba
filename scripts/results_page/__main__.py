"""docs/results.md: runs what its sections need, and writes their tables below its marker."""

import sys
import time
from pathlib import Path

from engine import Problem
from others import COUNTERFACTUAL, LANGUAGE_RUN, ORDERS, SPECIALISE, VISION, WEIGHTS
from studies import FIDELITY, LANGUAGE, TASKS

PAGE = Path("docs/results.md")
SECTIONS = [
    *LANGUAGE,
    *[LANGUAGE_RUN, SPECIALISE, COUNTERFACTUAL],
    *TASKS,
    *[VISION, WEIGHTS, ORDERS, FIDELITY],
]
MARKER = "<!-- scripts/results writes what follows -->\n"


def made(section, quick):
    """Makes a section; keeps its text in a file, from which the page is put together."""
    print(f"[results] {section.name}", file=sys.stderr, flush=True)
    begun = time.monotonic()
    text = section.make(quick)
    seconds = time.monotonic() - begun
    print(f"[results] {section.name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    if not quick:
        section.folder(quick).mkdir(parents=True, exist_ok=True)
        section.page().write_text(f"## {section.title}\n\n{text}")


def main(arguments):
    quick = "--quick" in arguments
    names = [a for a in arguments if a != "--quick"]
    known = [section.name for section in SECTIONS]
    for name in names:
        if name not in known:
            print(
                f"[results] no section '{name}'. Known are {', '.join(known)}, and --quick.",
                file=sys.stderr,
            )
            return 2
    above, marker, _ = PAGE.read_text().partition(MARKER)
    if not marker:
        raise Problem(f"{PAGE} has no line {MARKER.strip()}. Put it where the tables begin.")
    for section in SECTIONS:
        if not names or section.name in names:
            made(section, quick)
    if quick:
        return 0
    there = [section for section in SECTIONS if section.page().exists()]
    for section in SECTIONS:
        if section not in there:
            print(f"[results] not made yet: {section.name}", file=sys.stderr)
    PAGE.write_text(above + MARKER + "".join(f"\n{s.page().read_text()}" for s in there))
    print(f"[results] written to {PAGE}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Problem as problem:
        print(f"[results] {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("[results] stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
