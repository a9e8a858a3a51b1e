#!/usr/bin/env python3
"""What each part of the picker's knowledge brings, when an engine or its GPU fails: the table of docs/simulation.md.

usage: ablation.py POINTSMAN AZURE_CONV.csv [--seeds N] [--load L]... [--row ROW]... [--out FILE]
       ablation.py --tables FILE...

8 H100s with Llama-3-8B, lengths of the Azure conversation trace, Poisson arrivals for 75 s, the fault at endpoint 0 after 30 s. Each
column knows one thing more than the one before it. What is told, as the median over seeds (smallest to largest):

  share   of the requests that came after the fault, those that were sent to endpoint 0, in %
  lost    requests, of all
  first   p99 of TPOT in ms, of the requests that came in the first 10 s after the fault
  later   the same, of those that came after that
  good    of the requests that came after the fault, those served with TTFT <= 2 s and TPOT <= 50 ms, in %
  ttft    p99 in ms, of those that came after the fault

A line of JSON for each run goes to FILE; --tables prints what is in such files, a table for each number.
"""
import argparse
import csv
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

FAULT, END = 30, 75
COLUMNS = [
    ("gauges only", "ledger,errors,speed,gpu"),
    ("+ ledger", "errors,speed,gpu"),
    ("+ errors", "speed,gpu"),
    ("+ speed", "gpu"),
    ("+ GPU", ""),
]
# A GPU that is lost, or one that waits for its own firmware: the engine's process ends, or stands still.
ROWS = {
    "healthy": [],
    "dies, gauges zero": ["lost", "die"],
    "dies, gauges frozen": ["lost", "freeze"],
    "hangs, gauges zero": ["xid=119", "swallow"],
    "hangs, gauges frozen": ["xid=119", "hang"],
    "clocks / 2": ["brake"],
    "HW thermal": ["heat"],
    "co-tenant": ["tenant"],
}
NUMBERS = ["share", "lost", "first", "later", "good", "ttft"]


def trace(source, seed, path):
    """Poisson arrivals, one a second; replay makes them as many as are asked for."""
    rng, at = random.Random(seed), 0.0
    with open(source) as file:
        lengths = [(row["ContextTokens"], row["GeneratedTokens"]) for row in csv.DictReader(file)]
    with open(path, "w") as file:
        file.write("t,in,out\n")
        for _ in range(20000):
            file.write("%.6f,%s,%s\n" % ((at,) + rng.choice(lengths)))
            at += rng.expovariate(1)


def p99(values):
    values = sorted(values)
    return values[min(len(values) * 99 // 100, len(values) - 1)] if values else None


def numbers(path):
    with open(path) as file:
        rows = list(csv.DictReader(file))
    after = [row for row in rows if float(row["arrival"]) >= FAULT]
    served = [row for row in after if row["fate"] == "served"]

    def tpot(row):
        output = int(row["output"])
        return 1e3 * (float(row["e2e"]) - float(row["ttft"])) / (output - 1) if output > 1 else 0.0

    def came(begin, end):
        return [tpot(row) for row in served if begin <= float(row["arrival"]) < end and int(row["output"]) > 1]

    good = [row for row in served if float(row["ttft"]) <= 2 and tpot(row) <= 50]
    return {
        "share": 100 * sum(row["endpoint"] == "0" for row in after) / len(after),
        "lost": sum(row["fate"] != "served" for row in rows),
        "first": p99(came(FAULT, FAULT + 10)),
        "later": p99(came(FAULT + 10, END)),
        "good": 100 * len(good) / len(after),
        "ttft": p99([1e3 * float(row["ttft"]) for row in served]),
        "requests": len(rows),
    }


def run(binary, traffic, rate, seed, without, faults, folder):
    command = [binary, "replay", traffic, "--rate", "%.3f" % rate, "--duration", "%ds" % END, "--seeds", "1"]
    command += ["--seed", str(seed), "--json", "--outcomes", folder]
    command += ["--fault=%s@%d:0" % (fault, FAULT) for fault in faults]
    command += ["--without=" + without] if without else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (path,) = pathlib.Path(folder).glob("*.csv")
    found = numbers(path)
    path.unlink()
    return found


def told(values):
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    digits = 0 if max(values) >= 100 else 1
    return "%.*f (%.*f to %.*f)" % (
        digits, statistics.median(values), digits, min(values), digits, max(values))


DEAD = [row for row in ROWS if row.startswith(("dies", "hangs"))]
SLOW = [row for row in ROWS if row not in DEAD]
TABLES = [("share", DEAD, 0), ("lost", DEAD, 0), ("first", SLOW, 0), ("later", SLOW, 0), ("good", SLOW, 1), ("ttft", SLOW, 1)]


def tables(files):
    cases = {}
    for file in files:
        for line in open(file):
            run = json.loads(line)
            cases.setdefault((run["row"], run["load"], run["column"]), {})[run["seed"]] = run
    for number, rows, least in TABLES:
        print("\n| %s | load | %s |\n|%s" % (number, " | ".join(name for name, _ in COLUMNS), "---|" * 7))
        for row in rows:
            for load in sorted({load for _, load, _ in cases if load >= least}):
                runs = [cases.get((row, load, name), {}).values() for name, _ in COLUMNS]
                if any(runs):
                    cells = [told([run[number] for run in of]) for of in runs]
                    print("| %s | %d %% | %s |" % (row, 100 * load, " | ".join(cells)))


def main():
    if sys.argv[1:2] == ["--tables"]:
        return tables(sys.argv[2:])
    parser = argparse.ArgumentParser(usage=__doc__.replace("%", "%%"))
    parser.add_argument("binary")
    parser.add_argument("azure")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--load", type=float, action="append")
    parser.add_argument("--row", choices=list(ROWS), action="append")
    parser.add_argument("--out", default="ablation.jsonl")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open(args.out, "a") as out:
        traffic = {}
        for seed in range(1, args.seeds + 1):
            traffic[seed] = "%s/%d.csv" % (folder, seed)
            trace(args.azure, seed, traffic[seed])
        measure = [args.binary, "replay", traffic[1], "--load=1", "--duration=1s", "--seeds=1", "--json"]
        report = json.loads(subprocess.run(measure, check=True, stdout=subprocess.PIPE).stdout)
        full = report["results"][0]["rate"]
        print("100 %% load is %.1f requests/s" % full, flush=True)
        for load in args.load or [0.65, 0.85, 1.0]:
            for row in args.row or ROWS:
                print("\n%s at %d %%\n| | %s |\n|%s" % (row, 100 * load, " | ".join(NUMBERS), "---|" * 7))
                for column, without in COLUMNS:
                    found = []
                    for seed, path in traffic.items():
                        found.append(run(args.binary, path, load * full, seed, without, ROWS[row], folder + "/out"))
                        line = {"load": load, "row": row, "column": column, "seed": seed, **found[-1]}
                        print(json.dumps(line), file=out, flush=True)
                    cells = [told([one[number] for one in found]) for number in NUMBERS]
                    print("| %s | %s |" % (column, " | ".join(cells)), flush=True)


if __name__ == "__main__":
    main()
