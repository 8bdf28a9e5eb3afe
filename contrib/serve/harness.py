"""harness: libnbd, starting a server, and a measuring client, for the scripts of this folder."""
import atexit, os, shutil, subprocess, sys, tempfile, time
try:
    import nbd
except ImportError:
    # The first python3 need not be Debian's, which has the module.
    if sys.executable != "/usr/bin/python3":
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    raise


# The state kept of pools between activations must not mix with this machine's.
if "DMTHIN_TICKETS" not in os.environ:
    own = tempfile.mkdtemp(prefix="dmthin-state-")
    os.environ["DMTHIN_TICKETS"] = os.path.join(own, "tickets")
    os.environ["DMTHIN_ORIGINS"] = os.path.join(own, "origins")
    atexit.register(shutil.rmtree, own, ignore_errors=True)


def connect(name, path="s"):
    """A connection to the volume of this name, over the server's socket."""
    handle = nbd.NBD()
    handle.set_export_name(name)
    handle.connect_unix(path)
    return handle


def begin(*command, log="log", **options):
    """Starts a server, which tells what it has to say in the file `log`. Returns its process, whose `log()` is
    that, when it serves or has ended."""
    with open(log, "w") as text:
        process = subprocess.Popen(command, stderr=text, **options)
    process.log = lambda: open(log).read()
    # An error that ends the script must not leave a server behind.
    atexit.register(process.kill)
    for _ in range(500):
        if "serving" in process.log() or process.poll() is not None:
            return process
        time.sleep(0.01)
    sys.exit("the server does not come up: " + process.log())


def begin_serving(*command, **options):
    """Starts a server that must still run afterwards."""
    process = begin(*command, **options)
    if "serving" not in process.log():
        sys.exit("the server does not come up: " + process.log())
    return process


class Probe:
    """A good client that reads 4 KiB at a time of the start of a volume, until `end`: probe.c says how. Its
    program is made in the working folder, where the socket is `s`."""

    def __init__(self, volume, size):
        if not os.path.exists("probe"):
            source = os.path.join(os.path.dirname(os.path.realpath(__file__)), "probe.c")
            subprocess.run(["cc", "-O2", "-Wall", "-o", "probe", source], check=True, timeout=120)
        self.process = subprocess.Popen(["./probe", "s", volume, str(size)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            sys.exit("the good client is not served")

    def end(self):
        """The number of reads, and milliseconds: median, 99th percentile, maximum, and lateness."""
        told = self.process.communicate(timeout=60)[0].split()
        if self.process.returncode:
            sys.exit(f"the good client ended with {self.process.returncode}")
        if told[5] == "0":
            print("no real-time priority for the good client: its times are also the scheduler's")
        return int(told[0]), *map(float, told[1:5])
