"""How long `landscape-hooks --help` takes, beside a bare interpreter and the imports it avoids.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

CASES = {
    "python -c pass": ["-c", "pass"],
    "landscape-hooks --help": ["-m", "landscape_hooks", "--help"],
    "landscape-hooks analyze --help": ["-m", "landscape_hooks", "analyze", "--help"],
    "import landscape_hooks": ["-c", "import landscape_hooks"],
    "import torch": ["-c", "import torch"],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main(rounds: int = 5) -> None:
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, arguments in CASES.items():
            times[name].append(seconds(arguments))
    for name, values in times.items():
        print(f"{name:32s} {statistics.median(values):6.2f} s")


if __name__ == "__main__":
    main()
