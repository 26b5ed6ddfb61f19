"""The loop of an agent: think, run, look, again. `think` stands where a model goes."""

from e2b_code_interpreter import Sandbox

TASK = "How many primes are there below 1000, and what is the largest?"


def think(task, seen):
    """The next code to run, or the answer, from what was seen so far. Ask your model here."""
    if not seen:
        return "run", "primes = [n for n in range(2, 1000) if all(n % d for d in divisors(n))]"
    if "NameError" in seen[-1]:
        return "run", "def divisors(n): return range(2, int(n ** 0.5) + 1)\n" + (
            "primes = [n for n in range(2, 1000) if all(n % d for d in divisors(n))]\n"
            "len(primes), primes[-1]"
        )
    return "answer", seen[-1]


with Sandbox.create() as sandbox:
    seen = []
    for _ in range(10):
        kind, text = think(TASK, seen)
        if kind == "answer":
            print("answer:", text)
            break
        # A bound on each step: code that a model wrote may never end.
        execution = sandbox.run_code(text, timeout=30)
        error = execution.error
        seen.append(f"{error.name}: {error.value}" if error else execution.text or "")
        print("seen:", seen[-1])
