"""Helper of bench-update.

change TREE KIND: changes files of a tree. The files depend on their names and sizes only.
restore TREE KIND: undoes that.
new OLD NEW OLDIMAGE NEWIMAGE: prints the share, in percent, of the blocks of 4 KiB of NEW that are
nowhere in OLD, and the number of such blocks of NEWIMAGE that are nowhere in OLDIMAGE.
"""
import hashlib
import os
import shutil
import stat
import sys


def files(tree):
    for at, dirs, names in os.walk(tree):
        dirs.sort()
        for name in sorted(names):
            path = os.path.join(at, name)
            st = os.lstat(path)
            if stat.S_ISREG(st.st_mode):
                yield os.path.relpath(path, tree), st


def pick(tree, kind):
    def order(f):
        return hashlib.sha256(b"./" + f[0].encode()).digest()

    every = [f for f in files(tree) if "/modules/" not in f[0]]
    if kind == "small":  # one file of about 10 KB
        return sorted((f for f in every if 9500 <= f[1].st_size <= 10500), key=order)[:1]
    if kind == "program":  # one program of about 0.6 MB
        programs = [f for f in every if f[1].st_mode & 0o111 and f[0].startswith("usr/")]
        return sorted(programs, key=lambda f: abs(f[1].st_size - 600000))[:1]
    places = ("usr/bin/", "usr/sbin/", "usr/lib/", "usr/share/man/")
    return sorted((f for f in every if f[0].startswith(places) and f[1].st_size), key=order)[:72]


def saved(tree, path):
    return os.path.join(tree + ".saved", hashlib.sha256(path.encode()).hexdigest())


def change(tree, kind):
    os.makedirs(tree + ".saved", exist_ok=True)
    with open(os.path.join(tree + ".saved", "list"), "w") as paths:
        for path, st in pick(tree, kind):
            at = os.path.join(tree, path)
            shutil.copyfile(at, saved(tree, path))
            paths.write(f"{path}\0{st.st_mtime_ns}\0")
            with open(at, "rb") as f:
                b = bytearray(f.read())
            # One byte of 256 changes, and the rest of the file moves by 64 bytes.
            for i in range(0, len(b), 256):
                b[i] = (b[i] + 1) & 255
            b[len(b) // 3 : len(b) // 3] = b"changed " * 8
            with open(at, "r+b") as f:
                f.write(b)
            os.utime(at, ns=(st.st_mtime_ns + 86400 * 10**9,) * 2)


def restore(tree, kind):
    with open(os.path.join(tree + ".saved", "list")) as f:
        fields = f.read().split("\0")[:-1]
    for path, mtime in zip(fields[::2], fields[1::2]):
        at = os.path.join(tree, path)
        with open(at, "r+b") as to, open(saved(tree, path), "rb") as f:
            to.write(f.read())
            to.truncate()
        os.utime(at, ns=(int(mtime),) * 2)
    shutil.rmtree(tree + ".saved")


def blocks(path):
    with open(path, "rb", buffering=1 << 20) as f:
        while b := f.read(4096):
            yield hashlib.blake2b(b, digest_size=16).digest()


def new(old, now):
    known = set(blocks(old))
    all = list(blocks(now))
    return sum(b not in known for b in all), len(all)


if sys.argv[1] == "change":
    change(*sys.argv[2:])
elif sys.argv[1] == "restore":
    restore(*sys.argv[2:])
else:
    n, of = new(*sys.argv[2:4])
    print(f"{100 * n / of:.3f} {new(*sys.argv[4:6])[0]}")
