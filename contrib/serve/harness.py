"""harness: libnbd, and how a server begins, for the scripts of this folder."""
import atexit, os, shutil, subprocess, sys, tempfile, time
try:
    import nbd
except ImportError:
    # The first python3 need not be Debian's, which has the module.
    if sys.executable != "/usr/bin/python3":
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    raise


# What is kept of pools between their activations is not this machine's business.
if "DMTHIN_TICKETS" not in os.environ:
    own = tempfile.mkdtemp(prefix="dmthin-state-")
    os.environ["DMTHIN_TICKETS"] = os.path.join(own, "tickets")
    os.environ["DMTHIN_ORIGINS"] = os.path.join(own, "origins")
    atexit.register(shutil.rmtree, own, ignore_errors=True)


def connect(name, path="s"):
    """A connection to the volume of that name, by the server's socket."""
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
    # A fault that ends the script leaves no server behind.
    atexit.register(process.kill)
    for _ in range(500):
        if "serving" in process.log() or process.poll() is not None:
            return process
        time.sleep(0.01)
    sys.exit("the server does not come up: " + process.log())


def begin_serving(*command, **options):
    """The same of a server that may not end."""
    process = begin(*command, **options)
    if "serving" not in process.log():
        sys.exit("the server does not come up: " + process.log())
    return process
