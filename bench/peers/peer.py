"""What a peer is: answers one command a line, as bench/report/serve.cc does for moegrad.

  prepare CASE FILE          reads inputs and results, runs every variant of the case once and answers
                             {"variant": largest relative difference to the results, or an error text}
  time CASE VARIANT PART     seconds per call of a part ("step", "gradient", "forward")
  once CASE VARIANT PART     seconds of a single call
  memory CASE VARIANT        bytes of memory that one step needs above what is there before it
  drop CASE                  forgets it
"""
import gc
import json
import sys
import time

import numpy
from safetensors.numpy import load_file


def difference(expected, got):
    """The largest of |got - expected| / |expected| over tensors, in the 2-norm."""
    norms = {name: float(numpy.linalg.norm(value.ravel())) for name, value in expected.items()}
    least = 1e-5 * max(norms.values())  # below it rounding is compared: the bias of keys has gradient 0
    worst = 0.0
    for name, value in expected.items():
        error = numpy.linalg.norm((numpy.asarray(got[name]) - value).ravel())
        worst = max(worst, float(error / max(norms[name], least, 1e-30)))
    return worst


def seconds(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def status(field):
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def memory_of(run):
    gc.collect()
    with open("/proc/self/clear_refs", "w", encoding="ascii") as clear:
        clear.write("5")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


class Case:
    """parts: {variant: {part: function without arguments}}; results() of a variant for the check."""

    def __init__(self, parts, results, expected):
        self.parts, self.results, self.expected = parts, results, expected
        self.calls = {}

    def check(self, variant):
        try:
            return difference(self.expected, self.results[variant]())
        except Exception as error:  # a variant that this version or machine cannot run is no reason to stop
            return f"{type(error).__name__}: {error}".splitlines()[0][:200]

    def time(self, variant, part):
        run = self.parts[variant][part]
        if (variant, part) not in self.calls:  # the first answer is one call's, to find out how many fill 30 ms
            once = seconds(run, 1)
            self.calls[variant, part] = max(1, round(0.03 / once))
            return once
        return seconds(run, self.calls[variant, part])


def serve(make_case):
    """make_case(name, tensors) -> Case, for the tensors of the file that moegrad wrote."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    cases = {}
    for line in sys.stdin:
        command, name, *rest = line.split()
        if command == "prepare":
            case = cases[name] = make_case(name, load_file(rest[0]))
            answer = {variant: case.check(variant) for variant in case.parts}
        elif command == "time":
            answer = cases[name].time(*rest)
        elif command == "once":
            answer = seconds(cases[name].parts[rest[0]][rest[1]], 1)
        elif command == "memory":
            answer = memory_of(cases[name].parts[rest[0]]["step"])
        else:
            del cases[name]
            gc.collect()
            answer = "ok"
        print(json.dumps(answer), file=answers, flush=True)
