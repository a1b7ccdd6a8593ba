"""Divides the documents of a language domain into those to train on and those to validate with.

A document is whole in one of the two, and so is a family: documents of which the shorter shares
more than FAMILY of its windows of WINDOW bytes with another, directly or by way of others (copies,
generated files, licence texts, tables of contents). What is shared nevertheless is the leak.
"""

import hashlib
import zlib
from collections import Counter
from itertools import combinations
from typing import NamedTuple

from .errors import Problem

WINDOW = 50
SAMPLED = 16  # one window in so many is looked at to find families
FAMILY = 0.05
LEAST, MOST = 0.05, 0.08  # bytes of validation, as a share of all
MOST_LEAK = 0.02


class Document(NamedTuple):
    name: str
    text: bytes


def windows(text):
    return (text[i : i + WINDOW] for i in range(len(text) - WINDOW + 1))


def families(documents):
    """Lists of documents, each in its order, by their first."""
    holders = {}
    sizes = []
    for k, document in enumerate(documents):
        sample = {w for w in windows(document.text) if zlib.crc32(w) % SAMPLED == 0}
        sizes.append(len(sample))
        for window in sample:
            holders.setdefault(window, []).append(k)
    shared = Counter()
    for those in holders.values():
        shared.update(combinations(those, 2))

    first = list(range(len(documents)))
    for (a, b), count in sorted(shared.items()):
        if count > FAMILY * min(sizes[a], sizes[b]) and first[a] != first[b]:
            kept, gone = sorted((first[a], first[b]))
            first = [kept if f == gone else f for f in first]
    members = {}
    for document, f in zip(documents, first):
        members.setdefault(f, []).append(document)
    return list(members.values())


def split(domain, documents):
    """(training, validation): families, in the order of the SHA-256 of their first names, join the
    validation as long as it has at most MOST of the bytes."""
    room = MOST * sum(len(d.text) for d in documents)
    chosen, total = set(), 0
    known = families(documents)
    for family in sorted(known, key=lambda f: hashlib.sha256(f[0].name.encode()).digest()):
        size = sum(len(d.text) for d in family)
        if total + size <= room:
            chosen.update(d.name for d in family)
            total += size
    if total < LEAST / MOST * room:
        raise Problem(
            f"{domain}: only {total} bytes of {len(known)} families of documents fit into "
            f"{room:.0f} for validation. Divide the text into smaller documents."
        )
    training = [d for d in documents if d.name not in chosen]
    return training, [d for d in documents if d.name in chosen]


def leak(training, validation):
    """The share of the validation's windows that stand in the training too."""
    asked = {w for d in validation for w in windows(d.text)}
    found = set()
    for document in training:
        found.update(asked.intersection(windows(document.text)))
    seen = [w in found for d in validation for w in windows(d.text)]
    return sum(seen) / len(seen) if seen else 0.0


def checked_leak(domain, training, validation):
    share = leak(training, validation)
    if share > MOST_LEAK:
        raise Problem(
            f"{domain}: {share:.2%} of the validation's {WINDOW}-grams stand in the training, at "
            f"most {MOST_LEAK:.0%} may. Leave out the documents that repeat others."
        )
    return share
