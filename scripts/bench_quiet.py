"""What a registration costs when little happens: for scripts/bench and scripts/bench-full."""

import pathlib
import shutil
import subprocess
import tempfile
import time

# As most people run it, and for how long each figure is taken.
RATE, SECONDS = 100, 20


def written(pids):
    """Bytes that processes have sent to the disk so far."""
    total = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                total += int(line.split()[1])
    return total


class Syncs:
    """Counts the syncs of processes with strace; none where there is no strace, which slows them down besides."""

    def __init__(self, pids):
        self.pids = pids

    def __enter__(self):
        self.log = tempfile.NamedTemporaryFile("r")
        command = ["strace", "-f", "-q", "-e", "trace=fsync,fdatasync", "-o", self.log.name]
        self.tracer = subprocess.Popen(
            command + [word for pid in self.pids for word in ("-p", str(pid))], stderr=subprocess.DEVNULL
        )
        time.sleep(1)
        return self

    def __exit__(self, *_):
        self.tracer.terminate()
        self.tracer.wait()
        lines = pathlib.Path(self.log.name).read_text().splitlines()
        # One that others interrupt has a second line, which does not name its arguments.
        self.count = sum("sync(" in line for line in lines)
        self.log.close()


def measure(say, cpu, pids, load, more=lambda: {}):
    """Prints CPU, written bytes and syncs per registration at RATE a second; `more` are further counters."""
    members = RATE * SECONDS
    options = ("--members", str(members), "--rate", str(RATE), "--sample", "0")
    load("--members", str(RATE), "--rate", str(RATE), "--sample", "0")
    time.sleep(1)
    before, bytes_before, more_before = cpu(), written(pids()), more()
    load(*options)
    time.sleep(1)
    after = cpu()
    for name in sorted(after):
        say(f"  CPU per registration, {name}", f"{(after[name] - before[name]) / members * 1e3:.2f} ms")
    if len(after) > 1:
        say("  CPU per registration, all of it", f"{(sum(after.values()) - sum(before.values())) / members * 1e3:.2f} ms")
    say("  written to disk per registration", f"{(written(pids()) - bytes_before) / members / 1000:.1f} kB")
    for name, count in more().items():
        say(f"  {name} per registration", f"{(count - more_before[name]) / members / 1000:.1f} kB")
    if not shutil.which("strace"):
        say("  syncs per registration", "not counted: there is no strace")
        return
    with Syncs(pids()) as syncs:
        load(*options)
        time.sleep(1)
    say("  syncs per registration", f"{syncs.count / members:.1f}")
