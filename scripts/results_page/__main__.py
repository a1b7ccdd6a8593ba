"""docs/results.md: makes what its sections need, and writes their tables below its marker."""

import os
import re
import sys
import time
from pathlib import Path

from engine import Problem
from others import (
    COUNTERFACTUAL,
    FIDELITY_OF_LANGUAGE,
    LANGUAGE_RUN,
    ORDERS,
    SPECIALISE,
    VISION,
    WEIGHTS,
)
from studies import FIDELITY, LANGUAGE, TASKS

PAGE = Path("docs/results.md")
MARKER = "<!-- scripts/results writes what follows -->\n"
SECTIONS = [
    *LANGUAGE,
    FIDELITY_OF_LANGUAGE,
    *[LANGUAGE_RUN, SPECIALISE, COUNTERFACTUAL],
    *TASKS,
    *[VISION, WEIGHTS, ORDERS, FIDELITY],
]


def read_page():
    """What stands above the marker, and below it the text of each section by its title."""
    above, marker, below = PAGE.read_text().partition(MARKER)
    if not marker:
        raise Problem(f"{PAGE} has no line {MARKER.strip()}. Put it where the tables begin.")
    parts = re.split(r"^## (.*)\n", below, flags=re.MULTILINE)
    return above, dict(zip(parts[1::2], parts[2::2], strict=True))


def write_section(section, text):
    above, texts = read_page()
    texts[section.title] = f"\n{text}"
    known = {s.title for s in SECTIONS}
    for title in texts.keys() - known:
        print(f"[results] left out: '{title}', which is no section", file=sys.stderr)
    ours = [f"## {s.title}\n\n{texts[s.title].strip()}\n" for s in SECTIONS if s.title in texts]
    beside = PAGE.with_name(PAGE.name + ".new")
    try:
        beside.write_text(f"{above}{MARKER}\n" + "\n".join(ours))
        os.replace(beside, PAGE)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise Problem(f"{PAGE} cannot be written: {error}. It is as it was.") from error


def make(section, quick):
    print(f"[results] {section.name}", file=sys.stderr, flush=True)
    begun = time.monotonic()
    text = section.make(quick)
    if not quick:
        write_section(section, text)
    seconds = time.monotonic() - begun
    print(f"[results] {section.name}: {seconds:.0f} s", file=sys.stderr, flush=True)


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
    read_page()  # its errors before the work
    for section in SECTIONS:
        if not names or section.name in names:
            make(section, quick)
    if quick:
        return 0
    _, there = read_page()
    missing = [section.name for section in SECTIONS if section.title not in there]
    if missing:
        print(f"[results] not in {PAGE} yet: {', '.join(missing)}", file=sys.stderr)
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
