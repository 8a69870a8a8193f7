package deploy

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/imagetest"
	"imgtool/image/progress"
	"imgtool/image/volume"
	"imgtool/layouts"
)

const mib = 1 << 20

// testImage returns a disk image of 16 MiB with a GPT and two partitions, of which data
// has random content.
func testImage(t *testing.T) *image.Image {
	t.Helper()
	table := &gpt.Table{GUID: "6B8F5AD1-1D2F-4B4E-9C53-0A3A3B0C5F01", Size: 16 * mib, FirstUsable: mib, Parts: []gpt.Part{
		{Number: 1, Name: "data", Type: layouts.Types["linux-generic"], GUID: "6B8F5AD1-1D2F-4B4E-9C53-0A3A3B0C5F02", Off: mib, Len: 4 * mib},
		{Number: 2, Name: "rest", Type: layouts.Types["linux-generic"], GUID: "6B8F5AD1-1D2F-4B4E-9C53-0A3A3B0C5F03", Off: 8 * mib, Len: 4 * mib},
	}}
	extents, err := table.Extents()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 3*mib)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(data)
	img, err := image.New(table.Size, append(extents, image.Extent{Name: "data", Off: mib, Content: bytes.NewReader(data)})...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// content returns the bytes of an image.
func content(t *testing.T, img *image.Image) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(img, 0, img.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// written returns what a disk of zeros contains after the plan was written to it.
func written(t *testing.T, p *Plan, size int64) []byte {
	t.Helper()
	chunks, err := p.Expected(size)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	for c, err := range chunks {
		if err != nil {
			t.Fatal(err)
		}
		copy(b[c.Off:], c.Data)
	}
	return b
}

// An image has a valid GPT with its backup at the end of any disk, and the content of
// partitions stays the same, with random access and as a stream.
func TestPlanFitsTheTableToTheDisk(t *testing.T) {
	raw := content(t, testImage(t))
	for _, size := range []int64{16 * mib, 16*mib + 512, 20 * mib, 16*mib - 33*512, 12*mib + 33*512} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, stream %t", size, stream), func(t *testing.T) {
				src := volume.FromImage("test", testImage(t), nil)
				if stream {
					var err error
					if src, err = volume.Open("-", volume.Options{Stdin: bytes.NewReader(raw)}); err != nil {
						t.Fatal(err)
					}
				}
				p, err := NewPlan(src)
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				got := written(t, p, size)
				r := bytes.NewReader(got)
				table, err := gpt.Read(r, 512)
				if err != nil {
					t.Fatal(err)
				}
				if table.Size != size/512*512 || len(table.Parts) != 2 {
					t.Errorf("the table is for %d bytes and has %d partitions", table.Size, len(table.Parts))
				}
				backup, err := gpt.ReadBackup(r, 512, size/512*512)
				if err != nil || !table.Same(backup) {
					t.Errorf("the backup table differs: %v", err)
				}
				if !bytes.Equal(got[mib:12*mib], raw[mib:12*mib]) {
					t.Error("the content of a partition has changed")
				}
			})
		}
	}
	p, err := NewPlan(volume.FromImage("test", testImage(t), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Expected(12 * mib); err == nil {
		t.Error("a disk that ends within the last partition is accepted")
	}
}

// Everything that is not written and could be taken for a file system is wiped.
func TestWipesAndContentDoNotOverlap(t *testing.T) {
	p, err := NewPlan(volume.FromImage("test", testImage(t), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	job, err := p.Job(64 * mib)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{4096, 8 * mib, 12*mib - 512, 64*mib - 512} {
		if !covers(job.Wipe, off) {
			t.Errorf("byte %d is not wiped", off)
		}
	}
	for _, off := range []int64{mib, 2 * mib, 20 * mib} {
		if covers(job.Wipe, off) {
			t.Errorf("byte %d is wiped", off)
		}
	}
}

func covers(spans []image.Span, off int64) bool {
	for _, s := range spans {
		if s.Off <= off && off < s.End() {
			return true
		}
	}
	return false
}

func TestNewPlanRefusesWhatIsNotADiskImage(t *testing.T) {
	for name, b := range map[string][]byte{
		"it starts with no partition table": make([]byte, mib),
		"its partition table is damaged":    damaged(content(t, testImage(t))),
		"partition table has no partitions": append(make([]byte, 510), append([]byte{0x55, 0xAA}, make([]byte, mib)...)...),
		"it is an ext4 file system":         append(make([]byte, 1080), append([]byte{0x53, 0xEF}, make([]byte, mib)...)...),
	} {
		src, err := volume.Open("-", volume.Options{Stdin: bytes.NewReader(b)})
		if err == nil {
			_, err = NewPlan(src)
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %s", err, name)
		}
	}
}

// damaged returns an image with a wrong checksum in its GPT.
func damaged(b []byte) []byte {
	b[512+60]++
	return b
}

func TestPlanReportsAnUnusualImageOnce(t *testing.T) {
	b := content(t, testImage(t))
	src, err := volume.Open("-", volume.Options{Stdin: bytes.NewReader(b[:10*mib])})
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(src)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.ReadThrough(t.Context(), nil, progress.Discard); err != nil {
		t.Fatal(err)
	}
	var rep imagetest.Recorder
	p.Report(&rep)
	p.Report(&rep)
	const want = "warning: standard input: the image ends at byte 10485760, and its partition table has partitions up to byte 12582912 (rest): the rest of them is written as zeros\n"
	if rep.String() != want {
		t.Errorf("got %q, want %q", rep.String(), want)
	}
}

func TestReadThroughRefusesASmallDisk(t *testing.T) {
	p, err := NewPlan(volume.FromImage("test", testImage(t), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	err = p.ReadThrough(t.Context(), []*disk.Disk{{Path: "large", Size: 16 * mib}, {Path: "small", Size: 2 * mib}}, progress.Discard)
	if fault.Kind(err) != fault.Refused || !strings.HasPrefix(err.Error(), "small: ") {
		t.Errorf("got %v", err)
	}
}

func TestRecord(t *testing.T) {
	r := &record{Board: "rock64", BuildID: "1", Size: 5}
	block := append(r.encode(), 0, 0)
	for want, other := range map[*record]bool{{Board: "rock64", BuildID: "2", Size: 5}: true, {Board: "x", Size: 5}: false, {Board: "rock64", Size: 6}: false} {
		if want.isFor(block) != other {
			t.Errorf("%+v: got %t", want, !other)
		}
	}
	if r.isFor([]byte("other")) {
		t.Error("other content is taken for a record")
	}
}

// All consumers get all chunks, also if another leaves early or never begins.
func TestShare(t *testing.T) {
	var all volume.Chunks = func(yield func(image.Chunk, error) bool) {
		for i := range int64(100) {
			if !yield(image.Chunk{Off: i, Data: []byte{byte(i)}}, nil) {
				return
			}
		}
	}
	shared, leave := share(all, 4)
	leave(3)
	counts := make(chan int)
	for i, chunks := range shared[:3] {
		go func() {
			n := 0
			for range chunks {
				if n++; i == 1 && n == 3 {
					break
				}
			}
			counts <- n
		}()
	}
	got := []int{<-counts, <-counts, <-counts}
	if got[0] != 3 || got[1] != 100 || got[2] != 100 {
		t.Errorf("the consumers got %v chunks", got)
	}
}

func TestDescribe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	raw := content(t, testImage(t))
	for want, b := range map[string][]byte{
		"16.0 MiB file at " + file + ", which has 2 partitions: data (linux-generic 4.0 MiB), rest (linux-generic 4.0 MiB)": raw,
		"1.0 MiB file at " + file + ", which has no partition table":                                                        make([]byte, mib),
		"which has data of an unknown kind":                                                                                 bytes.Repeat([]byte{7}, mib),
		"which has an image that was not written completely":                                                                append(make([]byte, recordOff), append((&record{}).encode(), make([]byte, mib)...)...),
	} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Find(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := Describe(d); !strings.HasSuffix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	p, err := NewPlan(volume.FromImage("x.img", testImage(t), &artifact.Manifest{Board: "rock64", BuildID: "1", Manifest: image.Manifest{Size: 16 * mib}}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if got := p.Describe(); got != "x.img (rock64 build 1, 16.0 MiB)" {
		t.Errorf("got %q", got)
	}
}
