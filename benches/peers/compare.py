"""Runs `cargo bench` and torch_peers.py in turn and prints how their times compare.

    python compare.py                                  # the CPU, three turns
    python compare.py --device cuda --compile --turns 5
    python compare.py --only step/series step/d64
    python compare.py --only smollm                    # a model of today's size, by transformers
    python compare.py --binary device                  # what `cargo bench --no-run` made, where there is no cargo

A ratio above 1 means that PyTorch is faster. Ratios are taken turn by turn, so that a machine whose speed drifts does
not matter; the median is what to quote.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def ours(only, binary, table):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "bench.json")
        pattern = "|".join(only) if only else "step|matmul/square|attention/fused"
        command = [binary, "--bench"] if binary else ["cargo", "bench", "--bench", "device", "--"]
        command += [pattern]
        # Who names a benchmark wants it, whatever its size.
        sizes = {"SHADEGRAD_BENCH": "all"} if only else {}
        subprocess.run(command, cwd=HERE.parents[1], env={**os.environ, **sizes, "SHADEGRAD_BENCH_JSON": path}, check=True,
                       stdout=None if table else subprocess.DEVNULL)
        with open(path) as file:
            report = json.load(file)
    return report["device"], {line["id"]: line["seconds"] for line in report["lines"]}


def theirs(a):
    command = [sys.executable, str(HERE / "torch_peers.py"), "--device", a.device]
    command += ["--compile"] if a.compile else []
    command += ["--threads", str(a.threads)] if a.threads else []
    command += ["--seconds", str(a.seconds)] if a.seconds else []
    command += ["--only", *a.only, *(f"mixed/{name}" for name in a.only)] if a.only else []
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--binary", type=os.path.abspath, help="a built benchmark, instead of `cargo bench`")
    parser.add_argument("--seconds", type=float, help="time that PyTorch spends on each")
    parser.add_argument("--table", action="store_true", help="print what `cargo bench` prints, too")
    parser.add_argument("--only", nargs="*", help="beginnings of identifiers")
    a = parser.parse_args()
    turns = []
    for turn in range(a.turns):
        print(f"turn {turn + 1} of {a.turns} …", file=sys.stderr)
        device, mine = ours(a.only, a.binary, a.table)
        turns.append((mine, theirs(a)))
    print(f"shadegrad on {device}\nPyTorch on {a.device}{', compiled' if a.compile else ''}\n")
    print("| benchmark | shadegrad | PyTorch | ratio | turn by turn |\n| --- | ---: | ---: | ---: | --- |")
    for name in turns[0][0]:
        pairs = [(mine[name], peer[name]) for mine, peer in turns if name in mine and name in peer]
        if not pairs:
            continue
        ratios = [x / y for x, y in pairs]
        middle = [1e3 * statistics.median(column) for column in zip(*pairs)]
        listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {name} | {middle[0]:.3f} ms | {middle[1]:.3f} ms | {statistics.median(ratios):.2f} | {listed} |")


if __name__ == "__main__":
    main()
