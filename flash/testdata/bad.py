# An nbdkit plugin: a disk that says it wrote what it did not.
#   file=F size=BYTES mode=wrap real=BYTES | mode=drop every=N | mode=corrupt every=N
import os
import nbdkit

API_VERSION = 2
opts = {}
fd = None
writes = 0


def config(key, value):
    opts[key] = value


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open(readonly):
    global fd
    if fd is None:
        fd = os.open(opts["file"], os.O_RDWR)
    return 1


def get_size(h):
    return int(opts["size"])


def place(off):
    return off % int(opts["real"]) if opts["mode"] == "wrap" else off


def pread(h, buf, off, flags):
    b = os.pread(fd, len(buf), place(off))
    buf[:] = b + bytes(len(buf) - len(b))


def pwrite(h, buf, off, flags):
    global writes
    writes += 1
    hit = writes % int(opts.get("every", "1")) == 0
    if opts["mode"] == "drop" and hit:
        return
    if opts["mode"] == "corrupt" and hit:
        buf = bytearray(buf)
        buf[len(buf) // 2] ^= 0x40
    os.pwrite(fd, buf, place(off))


def can_flush(h):
    return True


def flush(h, flags):
    os.fsync(fd)
