"""client: libnbd, for the scripts of this folder."""
import os, sys
try:
    import nbd
except ImportError:
    # The first python3 need not be Debian's, which has the module.
    if sys.executable != "/usr/bin/python3":
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    raise


def connect(name, path="s"):
    """A connection to the volume of that name, by the server's socket."""
    handle = nbd.NBD()
    handle.set_export_name(name)
    handle.connect_unix(path)
    return handle
