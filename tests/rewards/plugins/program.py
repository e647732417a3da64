"""A program for the ``external`` reward that misbehaves on demand: ``program.py MODE``.

The value of a structure is its lattice length a in Å. MARK Å is where the trouble starts.
"""

import json
import os
import subprocess
import sys
import time

MARK = 4.44
MODE = sys.argv[1]


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def answer(request, **more):
    say(json.dumps({"id": request["id"], **more}))


def odd(request, kind):
    """One wrong answer of each kind."""
    wrong = {
        "nan": '{"id": %d, "value": NaN}',
        "text": '{"id": %d, "value": "big"}',
        "two": '{"id": %d, "value": 1, "error": "and not"}',
        "nothing": '{"id": %d, "valeu": 1}',
        "details": '{"id": %d, "value": 1, "details": [1]}',
        "unit": '{"id": %d, "value": 1, "unit": "K"}',
        "no_id": '{"value": %d}',
        "error": '{"id": %d, "error": "did not converge"}',
        "invalid": '{"id": %d, "invalid": "atoms overlap"}',
    }
    say(wrong[kind] % request["id"])


def serve(request):
    structure = request.get("structure")
    a = (
        structure["lattice"]["a"]
        if structure
        else float(request["cif"].split("_cell_length_a")[1].split()[0])
    )
    marked = abs(a - MARK) < 1e-6
    sys.stderr.write(f"request {request['id']}, a = {a}\n")
    if marked and MODE == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        sys.stderr.write(f"child {child.pid}\n")
        sys.stderr.flush()
        time.sleep(600)
    if marked and MODE == "die":
        sys.stderr.write("out of licences\n")
        os._exit(9)
    if marked and MODE.startswith("odd_"):
        odd(request, MODE.removeprefix("odd_"))
        return
    if MODE == "rubbish":
        say("SCF cycle 1 ... done")
        say('{"level": "info"}')
        say("[1, 2")
        say("x" * 3_000_000)
        sys.stderr.write("w" * 3_000_000 + "\n")
    answer(request, value=a, uncertainty=0.1, details={"pid": os.getpid()})
    if MODE == "quit":  # after each answer, so that it is gone before the next batch
        os._exit(0)


if MODE == "gone":
    sys.exit("no licence")
if MODE == "stubborn":  # neither reads nor ends
    sys.stderr.write("waiting for a queue\n")
    sys.stderr.flush()
    time.sleep(600)
if MODE == "late":  # reads everything that is sent ahead, then answers backwards, then a second time
    requests = []
    for line in sys.stdin:
        requests.append(json.loads(line))
        if len(requests) == int(sys.argv[2]):
            for request in reversed(requests):
                serve(request)
            for request in requests:
                serve(request)
            requests = []
for line in sys.stdin:
    serve(json.loads(line))
