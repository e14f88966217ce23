"""How often a 95 % interval of bits per byte holds the truth, and how often two equal models are told apart.

    python -m athanor.reports.benchmarks.interval_coverage [--draws 2000]

Documents have log-normal lengths (sigma 0, 1, 1.5: alike, skewed, heavy-tailed) and rates of 25 % deviation, which at
the power -0.1 fall with the length. Of equal models each reads every document a little better or worse by chance.
"""

from __future__ import annotations

import argparse

import numpy as np

from athanor.reports.intervals import differ, jackknife_interval

COUNTS = (4, 8, 16, 32, 64, 128)
LAWS = {  # sigma of log length, power of the rate in the length
    "equal lengths": (0.0, 0.0),
    "sigma 1": (1.0, 0.0),
    "sigma 1, rate falls": (1.0, -0.1),
    "sigma 1.5": (1.5, 0.0),
    "sigma 1.5, rate falls": (1.5, -0.1),
}
RATE_DEVIATION, NOISE = 0.25, 0.05
Documents = list[tuple[float, float]]  # bits, bytes


def bits_per_byte(documents: Documents) -> float:
    """Bits of all documents over bytes of all."""
    return sum(bits for bits, _ in documents) / sum(length for _, length in documents)


def documents(rng: np.random.Generator, n: int, sigma: float, power: float) -> Documents:
    """`n` documents of a law."""
    length_N = np.exp(rng.normal(0.0, sigma, n))
    rate_N = np.exp(rng.normal(0.0, RATE_DEVIATION, n)) * length_N**power
    return list(zip((rate_N * length_N).tolist(), length_N.tolist(), strict=True))


def truth(sigma: float, power: float) -> float:
    """Bits per byte of all documents of a law: E[length^(1 + power)] E[rate] / E[length], of log-normals."""
    return float(np.exp(RATE_DEVIATION**2 / 2 + sigma**2 / 2 * ((1 + power) ** 2 - 1)))


def coverage(n: int, sigma: float, power: float, draws: int, seed: int = 0) -> float:
    """Share of the draws whose interval holds the truth."""
    rng, expected = np.random.default_rng(seed), truth(sigma, power)
    held = 0
    for _ in range(draws):
        low, high = jackknife_interval(documents(rng, n, sigma, power), bits_per_byte)
        held += low <= expected <= high
    return held / draws


def false_verdicts(n: int, sigma: float, draws: int, seed: int = 0) -> float:
    """Share of the draws in which two models of equal quality are said to differ in bits per byte."""
    rng, said = np.random.default_rng(seed), 0
    for _ in range(draws):
        read = documents(rng, n, sigma, 0.0)
        noise_2N = np.exp(rng.normal(0.0, NOISE, (2, n)))
        ours, theirs = (
            {
                "sha256": "",
                "values": [(bits * factor, length) for (bits, length), factor in zip(read, row, strict=True)],
            }
            for row in noise_2N.tolist()
        )
        said += bool(differ(ours, theirs))
    return said / draws


def false_verdicts_of_answers(n: int, right: float, draws: int, seed: int = 0) -> float:
    """The same of answers, of which both models have the share `right` right, each item by the same chance."""
    rng, said = np.random.default_rng(seed), 0
    for _ in range(draws):
        chance_N = rng.beta(2 * right, 2 * (1 - right), n)
        ours, theirs = ({"sha256": "", "values": (rng.random(n) < chance_N).astype(float).tolist()} for _ in range(2))
        said += bool(differ(ours, theirs))
    return said / draws


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    print("| law of the documents | " + " | ".join(f"n = {n}" for n in COUNTS) + " |")
    print("|---" * (1 + len(COUNTS)) + "|")
    for name, (sigma, power) in LAWS.items():
        print(f"| coverage, {name} | " + " | ".join(f"{coverage(n, sigma, power, draws):.3f}" for n in COUNTS) + " |")
    for sigma in (0.0, 1.0, 1.5):
        found = " | ".join(f"{false_verdicts(n, sigma, draws):.3f}" for n in COUNTS)
        print(f"| false verdicts, bits per byte, sigma {sigma:g} | {found} |")
    for right in (0.1, 0.5):
        found = " | ".join(f"{false_verdicts_of_answers(n, right, draws):.3f}" for n in COUNTS)
        print(f"| false verdicts, answers, {100 * right:.0f} % right | {found} |")


if __name__ == "__main__":
    main()
