class Problem(Exception):
    """What is wrong, and what to do about it, in words for a person."""


def say(text):
    print(f"[data] {text}", flush=True)
