"""moegrad beside its peers: the same programs by turns, in processes of their own, with the same threads.

  compare.py REPORT FOLDER [--quick]

REPORT is the program moegrad_report. The peers' packages are those of the Python that runs this; FOLDER
holds libtorch_* where they were built, and takes the tensors that are exchanged. A peer's results are
compared with moegrad's before anything is timed; where they differ by more than 1e-4 (in the 2-norm,
relative), there is no time. Prints {"rows": [...]}. What is missing is left out, and said under "notes".
"""
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-4
BUDGET = 1.0  # seconds for a case and part, five rounds at least


class PeerEnded(Exception):
    def __init__(self, process, text):
        super().__init__(text)
        self.process = process


class Process:
    """Answers one line to each line; see bench/report/serve.cc and peer.py."""

    def __init__(self, command, threads, folder, **variables):
        processors = sorted(os.sched_getaffinity(0))[:threads]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu",
                                    "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")} | variables
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                      env=environment,
                                      preexec_fn=lambda: os.sched_setaffinity(0, processors))

    def ask(self, *words):
        self.child.stdin.write(" ".join(words) + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        if not answer:
            raise PeerEnded(self, f"{pathlib.Path(self.child.args[-1]).name} ended at '{words[0]}'")
        return answer.strip()

    def stop(self):
        self.child.stdin.close()
        self.child.wait()


class Comparison:
    def __init__(self, report, folder, quick):
        self.report, self.folder = report, pathlib.Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.budget = 0.5 if quick else BUDGET
        ours = self.ours(1)
        cases = ours.ask("cases").split()
        ours.stop()
        self.cases = cases[2:4] + cases[-4:] if quick else cases
        self.rows, self.notes = [], []
        self.installed = [name for name in ["torch", "jax"] if version_of(name)]
        for name in {"torch", "jax"} - set(self.installed):
            self.notes.append(f"{name} is not installed: scripts/bench --peers")

    def ours(self, threads, **variables):
        return Process([self.report, "--serve"], threads, self.folder, **variables)

    def peer(self, name, threads, **variables):
        return Process([sys.executable, str(HERE / f"{name}_peer.py")], threads, self.folder, **variables)

    def run(self, threads):
        ours = self.ours(threads)
        peers = {name: self.peer(name, threads) for name in self.installed}
        for case in self.cases:
            print(f"[peers] {case}, {threads} threads", file=sys.stderr)
            try:
                self.case(case, threads, ours, peers)
            except PeerEnded as ended:
                self.notes.append(f"{case}, {threads} threads: {ended}")
                name = next((n for n, p in peers.items() if p is ended.process), None)
                if name is None:
                    raise  # moegrad itself
                peers[name] = self.peer(name, threads)
        for process in [ours, *peers.values()]:
            process.stop()

    def case(self, case, threads, ours, peers):
        file = self.folder / f"{case}.safetensors"
        ours.ask("prepare", case, str(file))
        agreeing = []
        for name in peers:
            answer = json.loads(peers[name].ask("prepare", case, str(file)))
            for variant, error in answer.items():
                if isinstance(error, float) and error <= TOLERANCE:
                    agreeing.append((name, variant, error))
                else:
                    self.notes.append(f"{case}: {name} {variant} is not timed: {error}")
        file.unlink()
        parts = ["step"] if case.startswith("N") else ["step", "gradient", "forward"]
        for part in parts:
            self.by_turns(case, part, threads, ours, peers, agreeing)
        for process in [ours, *peers.values()]:
            process.ask("drop", case)

    def by_turns(self, case, part, threads, ours, peers, agreeing):
        sides = [("moegrad", "")] + [(name, variant) for name, variant, _ in agreeing]

        def time(side):
            name, variant = side
            return float(ours.ask("time", case, part) if name == "moegrad"
                         else peers[name].ask("time", case, variant, part))

        warm = {side: time(side) for side in sides}
        sides = [side for side in sides if worth_timing(side, warm)]
        times = {side: [] for side in sides}
        rounds, spent = 0, 0.0
        while rounds < 5 or (rounds < 9 and spent < self.budget):
            for side in sides if rounds % 2 == 0 else reversed(sides):
                times[side].append(time(side))
                spent += max(0.03, times[side][-1])
            rounds += 1
        errors = {(name, variant): error for name, variant, error in agreeing}
        for side in sides[1:]:
            ratios = [t / o for t, o in zip(times[side], times["moegrad", ""])]
            self.rows.append({
                "case": case, "part": part, "threads": threads, "peer": side[0], "variant": side[1],
                "difference": errors[side], "ours_ms": 1e3 * statistics.median(times["moegrad", ""]),
                "theirs_ms": 1e3 * statistics.median(times[side]), "median": statistics.median(ratios),
                "min": min(ratios), "max": max(ratios), "rounds": rounds})

    def memory(self, case):
        """Each variant in a process of its own, where what is freed goes back to the system at once: what was
        used before must not hide what is needed."""
        give_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        file = self.folder / f"{case}.safetensors"
        print(f"[peers] memory of {case}", file=sys.stderr)

        def fresh():
            process = self.ours(1, **give_back)
            process.ask("prepare", case, str(file))
            return process

        def add(peer, variant, process, *words):
            bytes_ = int(process.ask("memory", case, *words))
            process.stop()
            self.rows.append({"case": case, "part": "memory", "threads": 1, "peer": peer, "variant": variant,
                              "mebibytes": bytes_ / 2**20})

        add("moegrad", "", fresh())
        variants = {"torch": ["loop", "padded", "grouped"], "jax": ["padded"]}
        for peer, variant in [(p, v) for p in self.installed for v in variants[p]]:
            process = self.peer(peer, 1, **give_back)
            process.ask("prepare", case, str(file))
            add(peer, variant, process, variant)
        file.unlink()

    def busy(self):
        """Single steps after pauses of 50 ms while a process that spins keeps every processor busy: milliseconds
        on one thread and on all, of moegrad and of PyTorch's usual way."""
        processors = sorted(os.sched_getaffinity(0))
        for case in ["N1024-D64-H128-E8-k2", "vision", "transformer"]:
            print(f"[peers] {case}, busy", file=sys.stderr)
            file = self.folder / f"{case}.safetensors"
            sides = []
            for threads in sorted({1, len(processors)}):
                process = self.ours(threads)
                process.ask("prepare", case, str(file))
                sides.append(("moegrad", threads, process, ["once", case, "step"]))
            for threads in sorted({1, len(processors)}) if "torch" in self.installed else []:
                process = self.peer("torch", threads)
                process.ask("prepare", case, str(file))
                sides.append(("torch", threads, process, ["once", case, "loop", "step"]))
            file.unlink()
            for *_, process, words in sides:
                process.ask(*words)
            spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"],
                                         preexec_fn=lambda p=p: os.sched_setaffinity(0, {p})) for p in processors]
            times = [[] for _ in sides]
            try:
                for _ in range(9):
                    for (*_, process, words), own in zip(sides, times):
                        time.sleep(0.05)
                        own.append(1e3 * float(process.ask(*words)))
            finally:
                for spinner in spinners:
                    spinner.kill()
                    spinner.wait()
            for (peer, threads, process, _), own in zip(sides, times):
                process.stop()
                self.rows.append({"case": case, "part": "busy", "threads": threads, "peer": peer,
                                  "variant": "loop" if peer == "torch" else "", "ms": statistics.median(own),
                                  "min": min(own), "max": max(own), "rounds": len(own)})

    def tape(self):
        """Programs that print nanoseconds to record an operation on one element, and to replay it."""
        print("[peers] tape", file=sys.stderr)
        programs = {"moegrad": [self.report, "--tape"]}
        if "torch" in self.installed:
            programs[f"torch {version_of('torch')}, Python"] = [sys.executable, str(HERE / "torch_tape.py")]
        for program in sorted(self.folder.glob("libtorch_*")):
            programs[program.name.replace("_", " ") + ", C++"] = [str(program)]
        if len(programs) < 3:
            self.notes.append("the C++ interface of PyTorch is missing: scripts/bench --peers")
        times = {name: [] for name in programs}
        for _ in range(3):
            for name, command in programs.items():
                out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True,
                                     env=os.environ | {"OMP_NUM_THREADS": "1"}).stdout
                times[name].append([float(word) for word in out.split()])
        for i, part in enumerate(["record", "backward"]):
            for name, rounds in times.items():
                ratios = [theirs[i] / ours[i] for theirs, ours in zip(rounds, times["moegrad"])]
                self.rows.append({"case": "tape", "part": part, "threads": 1, "peer": name, "variant": "",
                                  "ns": statistics.median(r[i] for r in rounds),
                                  "median": statistics.median(ratios), "min": min(ratios),
                                  "max": max(ratios), "rounds": len(rounds)})


def worth_timing(side, warm):
    """The usual loop over experts, and of each peer's other variants the fastest in a first run."""
    name, variant = side
    rivals = [t for (n, v), t in warm.items() if n == name and v != "loop"]
    return variant == "loop" or warm[side] == min(rivals)


def version_of(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main():
    arguments = [a for a in sys.argv[1:] if a != "--quick"]
    comparison = Comparison(*arguments, quick="--quick" in sys.argv)
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        comparison.run(threads)
    comparison.memory("N4096-D256-H512-E16-k2")
    comparison.busy()
    comparison.tape()
    versions = {name: version_of(name) for name in comparison.installed}
    print(json.dumps({"versions": versions, "notes": comparison.notes, "rows": comparison.rows}, indent=1))


if __name__ == "__main__":
    main()
