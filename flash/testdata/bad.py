# An nbdkit plugin: a disk that is not what it says, around one byte of it.
#   file=F size=BYTES mode=MODE [at=BYTE] [real=BYTES] [every=N] [seconds=N] [until=F]
# Modes, and what they do:
#   wrap      it has real bytes and begins again behind them
#   lost      a write that covers at is lost, always; lost-once, the first time
#   torn      of a write that covers at the part behind it is lost
#   flip      a bit at at is wrong in what is written; flip-once, the first time
#   readflip  it is wrong in what is read, and another one each time; readflip-once
#   elsewhere what covers at is written 64 KiB further
#   eio       a write that covers at fails; readeio, a read does; nospace, all behind at do
#   badflush  the third flush fails, and all after it; hang, the third never ends
#   volatile  what was not flushed is gone when the power goes
#   drop, corrupt  every Nth write is lost, or a bit of it wrong
#   slow      each write takes 20 ms; stall, the Nth takes seconds, or
#             makes the file F and takes until that is removed
#   dies      after the Nth write every operation fails
import errno
import os
import time
import nbdkit

API_VERSION = 2
opts = {"at": "-1", "every": "1"}
fd = None
times = 0  # that the fault struck
writes = 0
flushes = 0
cache = []  # of a volatile disk: (offset, bytes), oldest first


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


def covers(buf, off):
    return off <= int(opts["at"]) < off + len(buf)


def fail(number, text):
    nbdkit.set_error(number)
    raise RuntimeError(text)


def strikes(mode):
    """Counts, and says whether mode or its -once is on and due."""
    global times
    if opts["mode"] not in (mode, mode + "-once"):
        return False
    times += 1
    return times == 1 or not opts["mode"].endswith("-once")


def check_alive():
    if opts["mode"] == "dies" and writes >= int(opts["every"]):
        fail(errno.EIO, "dead")


def pread(h, buf, off, flags):
    check_alive()
    if opts["mode"] == "readeio" and covers(buf, off):
        fail(errno.EIO, "cannot read")
    place = off % int(opts["real"]) if opts["mode"] == "wrap" else off
    b = bytearray(os.pread(fd, len(buf), place))
    b += bytes(len(buf) - len(b))
    for o, data in cache:
        start, end = max(o, off), min(o + len(data), off + len(buf))
        if start < end:
            b[start - off:end - off] = data[start - o:end - o]
    if covers(buf, off) and strikes("readflip"):
        b[int(opts["at"]) - off] ^= 1 + times % 255
    buf[:] = b


def stall():
    if "until" not in opts:
        time.sleep(float(opts["seconds"]))
        return
    os.close(os.open(opts["until"], os.O_CREAT))
    while os.path.exists(opts["until"]):
        time.sleep(0.01)


def pwrite(h, buf, off, flags):
    global writes
    check_alive()
    writes += 1
    mode, at = opts["mode"], int(opts["at"])
    due = writes % int(opts["every"]) == 0
    buf = bytearray(buf)
    if mode == "drop" and due:
        return
    if mode == "corrupt" and due:
        buf[len(buf) // 2] ^= 0x40
    if mode == "nospace" and off + len(buf) > at:
        fail(errno.ENOSPC, "full")
    if mode == "slow":
        time.sleep(0.02)
    if mode == "stall" and writes == int(opts["every"]):
        stall()
    if covers(buf, off):
        if mode == "eio":
            fail(errno.EIO, "cannot write")
        if strikes("lost"):
            return
        if mode == "torn":
            buf = buf[:at - off]
        if strikes("flip"):
            buf[at - off] ^= 0x40
        if mode == "elsewhere":
            off += 65536
    if mode == "volatile":
        cache.append((off, bytes(buf)))
        return
    os.pwrite(fd, buf, off % int(opts["real"]) if mode == "wrap" else off)


def can_flush(h):
    return True


def flush(h, flags):
    global flushes
    flushes += 1
    if flushes >= 3:
        if opts["mode"] == "badflush":
            fail(errno.EIO, "cannot flush")
        if opts["mode"] == "hang":
            time.sleep(3600)
    for off, data in cache:
        os.pwrite(fd, data, off)
    cache.clear()
    os.fsync(fd)
