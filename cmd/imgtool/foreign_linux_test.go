package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"imgtool/image/imagetest"
)

// foreignImage is an image that other programs could have made: its partition table and its
// length.
type foreignImage struct {
	kind      string // gpt, hybrid, mbr, logical, or stale: an MBR with the GPT of before
	sector    int64  // in bytes
	entries   int
	entrySize int
	array     int64      // sector of the entries
	size      int64      // of the disk that the table is for, in bytes
	parts     [][2]int64 // offset and length, in bytes
	length    int64      // of the image, in bytes
	trailing  bool       // random bytes behind size, instead of zeros
	gap       bool       // random bytes behind the last partition, instead of zeros
	noBackup  bool
	flip      int64 // a byte that is damaged, or 0
}

func (f *foreignImage) gpt() bool { return f.kind == "gpt" || f.kind == "hybrid" }

func (f *foreignImage) tailLen() int64 {
	return (int64(f.entries*f.entrySize)+f.sector-1)/f.sector*f.sector + f.sector
}

func (f *foreignImage) end() (end int64) {
	for _, p := range f.parts {
		end = max(end, p[0]+p[1])
	}
	return end
}

// image returns the bytes of the image.
func (f *foreignImage) image(r *rand.Rand) []byte {
	b := make([]byte, max(f.size, f.length))
	fill(r, b[:f.end()])
	if f.gap {
		fill(r, b[f.end():f.size])
	}
	if f.trailing && f.length > f.size {
		fill(r, b[f.size:f.length])
	}
	clear(b[512:max(4096, 2*f.sector)])
	copy(b[446:], make([]byte, 64))
	b[510], b[511] = 0x55, 0xAA
	switch f.kind {
	case "gpt", "hybrid":
		f.putGPT(b)
		covered := f.size/f.sector - 1
		if f.kind == "hybrid" {
			mbrEntry(b, 1, 0x0C, f.parts[0][0]/f.sector, f.parts[0][1]/f.sector)
			covered = f.parts[0][0]/f.sector - 1
		}
		mbrEntry(b, 0, 0xEE, 1, covered)
	case "stale":
		old := *f
		old.size = f.size / 2 / f.sector * f.sector
		old.parts = [][2]int64{{1 << 20, 1 << 20}}
		old.putGPT(b)
		fallthrough
	case "mbr":
		for i, p := range f.parts {
			mbrEntry(b, i, 0x83, p[0]/512, p[1]/512)
		}
	case "logical":
		f.putLogical(b)
	}
	if f.flip != 0 {
		b[f.flip] ^= 0x55
	}
	return b[:f.length]
}

// fill writes random bytes to some runs and leaves others zero.
func fill(r *rand.Rand, b []byte) {
	random := rand.NewChaCha8([32]byte{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
	for len(b) > 0 {
		n := min(len(b), 1+r.IntN(1<<20))
		if r.IntN(4) > 0 {
			random.Read(b[:n])
		}
		b = b[n:]
	}
}

func mbrEntry(sector []byte, i int, kind byte, first, count int64) {
	e := sector[446+16*i:]
	e[4] = kind
	binary.LittleEndian.PutUint32(e[8:], uint32(first))
	binary.LittleEndian.PutUint32(e[12:], uint32(count))
}

// putLogical writes an MBR with the first partition primary and the others logical, each
// with its table in the sector before it.
func (f *foreignImage) putLogical(b []byte) {
	mbrEntry(b, 0, 0x0C, f.parts[0][0]/512, f.parts[0][1]/512)
	first := f.parts[1][0] - 512
	mbrEntry(b, 1, 0x05, first/512, (f.end()-first)/512)
	for i, p := range f.parts[1:] {
		table := b[p[0]-512 : p[0]]
		clear(table)
		table[510], table[511] = 0x55, 0xAA
		mbrEntry(table, 0, 0x83, 1, p[1]/512)
		if i+2 < len(f.parts) {
			next := f.parts[i+2]
			mbrEntry(table, 1, 0x05, (next[0]-512-first)/512, (next[1]+512)/512)
		}
	}
}

// putGPT writes both copies of a GPT.
func (f *foreignImage) putGPT(b []byte) {
	le := binary.LittleEndian
	array := make([]byte, f.entries*f.entrySize)
	for i, p := range f.parts {
		e := array[i*f.entrySize:]
		copy(e, "\xAF\x3D\xC6\x0F\x83\x84\x72\x47\x8E\x79\x3D\x69\xD8\x47\x7D\xE4")
		copy(e[16:], fmt.Sprintf("unit-%d-%9d", i, f.size))
		le.PutUint64(e[32:], uint64(p[0]/f.sector))
		le.PutUint64(e[40:], uint64((p[0]+p[1])/f.sector-1))
		e[56] = 'a' + byte(i)
	}
	last := f.size/f.sector - 1
	h := make([]byte, f.sector)
	copy(h, "EFI PART\x00\x00\x01\x00\x5C")
	le.PutUint64(h[40:], uint64(max(f.array+(f.tailLen()/f.sector-1), 2)))
	le.PutUint64(h[48:], uint64(last-f.tailLen()/f.sector))
	copy(h[56:], fmt.Sprintf("disk-%011d", f.size))
	le.PutUint32(h[80:], uint32(f.entries))
	le.PutUint32(h[84:], uint32(f.entrySize))
	le.PutUint32(h[88:], crc32.ChecksumIEEE(array))
	put := func(own, other, at int64) {
		le.PutUint64(h[24:], uint64(own))
		le.PutUint64(h[32:], uint64(other))
		le.PutUint64(h[72:], uint64(at))
		le.PutUint32(h[16:], 0)
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		clear(b[at*f.sector:][:f.tailLen()-f.sector])
		copy(b[at*f.sector:], array)
		copy(b[own*f.sector:], h)
	}
	if !f.noBackup {
		put(last, 1, (f.size-f.tailLen())/f.sector)
	}
	put(1, last, f.array)
}

// drawForeign returns a random image and the size of a disk for it.
func drawForeign(r *rand.Rand) (f *foreignImage, disk int64) {
	f = &foreignImage{kind: pick(r, "gpt", "gpt", "gpt", "hybrid", "mbr", "logical", "stale"), sector: 512, entries: 128, entrySize: 128, array: 2}
	if f.gpt() {
		f.sector = pick[int64](r, 512, 512, 4096)
		f.entries = pick(r, 4, 16, 56, 128, 128, 248, 256)
		f.entrySize = pick(r, 128, 128, 128, 256)
		f.array = pick[int64](r, 2, 2, 2, 3, 40)
	}
	first := (f.array+f.tailLen()/f.sector-1)*f.sector + pick[int64](r, 0, 0, 1<<20, 3<<20)
	if !f.gpt() {
		first = pick[int64](r, 512, 63*512, 1<<20, 4<<20)
	}
	if f.kind == "hybrid" || f.kind == "stale" {
		first = 1 << 20
	}
	for range 1 + r.IntN(3) + len(f.kind)/7 {
		n := (1 + r.Int64N(1500)) * 4096
		f.parts = append(f.parts, [2]int64{first, n})
		first += n + (1+r.Int64N(100))*f.sector
	}
	f.size = (f.end()+f.tailLen()+r.Int64N(1<<21))/f.sector*f.sector + f.sector
	f.gap = r.IntN(4) == 0
	f.length = f.size
	switch r.IntN(8) {
	case 0: // an end within a sector
		f.length = f.size + 1 + r.Int64N(4095)
		f.trailing = r.IntN(2) == 0
	case 1:
		f.length = f.size - 1 - r.Int64N(4095)
	case 2: // more behind it
		f.length = f.size + r.Int64N(4<<20)
		f.trailing = r.IntN(3) > 0
	case 3: // the last partition cut
		last := f.parts[len(f.parts)-1]
		f.length = last[0] + r.Int64N(last[1])
	case 4: // for a larger disk
		f.size += r.Int64N(64<<20) / f.sector * f.sector
		f.length = f.end() + r.Int64N(1<<20)
	case 5:
		f.noBackup = true
	}
	if f.gpt() && r.IntN(16) == 0 {
		f.flip = f.sector + pick[int64](r, 0, 17, 24, 45, 60, 72, 81, 88)
	}
	disk = max(f.length, f.end()+f.tailLen()) + f.sector
	switch r.IntN(6) {
	case 0:
		disk = f.size
	case 1:
		disk = f.length
	case 2:
		disk = f.end() - r.Int64N(1<<20)
	default:
		disk += r.Int64N(16 << 20)
	}
	return f, max(disk, 1<<20)
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// deliver is a way to pass an image to the program.
type deliver struct {
	packed, piped bool
	loop          int64 // size of the sectors of a loop device, 0: a regular file
}

// flashed writes an image to a disk of random bytes, and returns the contents of the disk
// before and after, and the output of the program.
func (d deliver) flashed(t *testing.T, data []byte, size int64, extra ...string) (before, after []byte, status int, said string) {
	t.Helper()
	dir := t.TempDir()
	file, disk := filepath.Join(dir, "x.img"), filepath.Join(dir, "disk")
	if d.packed {
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		z.Write(data)
		z.Close()
		file, data = file+".gz", b.Bytes()
	}
	before = make([]byte, size)
	rand.NewChaCha8([32]byte{9}).Read(before)
	for name, b := range map[string][]byte{file: data, disk: before} {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	target := disk
	if d.loop != 0 {
		target = loopOf(t, disk, d.loop)
	}
	args := append([]string{"flash", "--yes", "--image", file}, extra...)
	var out []byte
	for try := 0; ; try++ {
		cmd := tool(t, append(args, target)...)
		if d.piped {
			args[3] = "-"
			cmd = tool(t, append(args, target)...)
			in, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			cmd.Stdin = in
		}
		out, _ = cmd.CombinedOutput()
		status = cmd.ProcessState.ExitCode()
		// Another losetup that searches for a free device opens this one for a moment.
		if try == 5 || !strings.Contains(string(out), "losetup (process") {
			break
		}
	}
	var err error
	if after, err = os.ReadFile(disk); err != nil {
		t.Fatal(err)
	}
	if status == 0 && !d.piped {
		if out, err := tool(t, "verify", "--image", file, target).CombinedOutput(); err != nil {
			t.Errorf("verify: %v: %s", err, out)
		}
	}
	return before, after, status, string(out)
}

// loopOf attaches a loop device with the given sector size for the duration of the test.
func loopOf(t testing.TB, file string, sector int64) string {
	t.Helper()
	imagetest.NeedRoot(t)
	dev := strings.TrimSpace(imagetest.Run(t, "losetup", "--find", "--show", "--direct-io=on", "--sector-size", strconv.FormatInt(sector, 10), file))
	t.Cleanup(func() { exec.Command(imagetest.Need(t, "losetup"), "--detach", dev).Run() })
	return dev
}

// clean returns which of sfdisk and sgdisk find no fault in the table of a disk.
func clean(t testing.TB, disk []byte, sector int64) (found []string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "judged")
	if err := os.WriteFile(file, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	dev := loopOf(t, file, sector)
	if out, _ := exec.Command(imagetest.Need(t, "sgdisk"), "-v", dev).Output(); strings.Contains(string(out), "No problems found") {
		found = append(found, "sgdisk")
	}
	if out, _ := exec.Command(imagetest.Need(t, "sfdisk"), "-V", dev).CombinedOutput(); strings.Contains(string(out), "No errors detected") && !strings.Contains(string(out), "mismatch") {
		found = append(found, "sfdisk")
	}
	return found
}

// judge compares the contents of a disk with what dd would have written.
func (f *foreignImage) judge(t *testing.T, data, after []byte) {
	t.Helper()
	want := slices.Clone(after)
	copy(want, data)
	end := f.end()
	if n := int64(len(data)); n < end {
		clear(want[n:end])
	}
	same := func(from, to int64) {
		t.Helper()
		if from, to = max(0, from), min(to, int64(len(after))); from < to && !bytes.Equal(want[from:to], after[from:to]) {
			at := from
			for want[at] == after[at] {
				at++
			}
			t.Errorf("byte %d is %02x, not %02x as dd writes it", at, after[at], want[at])
		}
	}
	if !f.gpt() {
		same(0, int64(len(after)))
		return
	}
	size := int64(len(after)) / f.sector * f.sector
	newTail, oldTail := size-f.tailLen(), f.size-f.tailLen()
	occupied := false
	for i := newTail; i < int64(len(data)); i++ {
		occupied = occupied || data[i] != 0 && (i < oldTail || i >= f.size)
	}
	whole := int64(len(data)) >= f.size && !f.noBackup
	if occupied || size == f.size && whole {
		same(0, int64(len(after)))
		return
	}
	same(0, 446)
	same(510, f.sector)
	same(f.sector+92, newTail)
}

func TestForeignImagesAreWrittenAsByDD(t *testing.T) {
	imagetest.Long(t)
	imagetest.NeedRoot(t)
	count, seed := 24, uint64(20)
	if os.Getenv("SOAK") != "" {
		count, seed = 400, uint64(time.Now().UnixNano())
	}
	if s := os.Getenv("SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("SEED=%d", seed)
	written, refused := 0, 0
	for i := range count {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			f, size := drawForeign(r)
			d := deliver{packed: r.IntN(4) == 0, piped: r.IntN(4) == 0, loop: pick(r, 0, f.sector, f.sector, f.sector, 512, 4096)}
			if d.loop != 0 {
				size = size / d.loop * d.loop
			}
			data := f.image(r)
			before, after, status, said := d.flashed(t, data, size)
			data0 := int64(len(bytes.TrimRight(data, "\x00")))
			least := f.end()
			if f.gpt() {
				least += f.tailLen()
			}
			possible := f.flip == 0 && (d.loop == 0 || d.loop == f.sector) && size >= max(least, data0)
			certain := possible && size >= max(least, f.length) && (!d.piped || size >= f.size)
			switch {
			case status == 0 && !possible:
				t.Errorf("it was written, and should be refused: %s", said)
			case status != 0 && certain:
				t.Errorf("exit status %d: %s", status, said)
			case status != 0:
				refused++
				if !bytes.Equal(before, after) && !d.piped {
					t.Errorf("exit status %d after something was written: %s", status, said)
				}
			default:
				written++
				f.judge(t, data, after)
				f.judgeTable(t, r, size, after)
			}
			if t.Failed() {
				t.Logf("%+v onto %+v, a disk of %d bytes", *f, d, size)
			}
		})
	}
	t.Logf("%d written as dd does, %d refused", written, refused)
	if written < count/3 || refused < count/12 {
		t.Errorf("%d of %d were written, %d refused: too few to say anything", written, count, refused)
	}
}

// judgeTable checks the table on a disk of another size with sfdisk and sgdisk: a program
// that finds no fault in the table on a disk of the original size must find none there.
func (f *foreignImage) judgeTable(t *testing.T, r *rand.Rand, size int64, after []byte) {
	t.Helper()
	own := *f
	own.length, own.noBackup, own.gap, own.trailing = own.size, false, false, false
	size = size / f.sector * f.sector
	if !f.gpt() || string(after[size-f.sector:][:8]) != "EFI PART" {
		return // as dd has it, which judge saw
	}
	now := clean(t, after, f.sector)
	for _, program := range clean(t, own.image(r), f.sector) {
		if !slices.Contains(now, program) {
			t.Errorf("%s finds a fault in the table now", program)
		}
	}
}
