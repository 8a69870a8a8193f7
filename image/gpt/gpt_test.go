package gpt_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	diskfs "github.com/diskfs/go-diskfs/partition/gpt"

	"imgtool/image"
	"imgtool/image/gpt"
	"imgtool/image/imagetest"
)

const (
	mib   = 1 << 20
	linux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
)

func rock64() *gpt.Table {
	return &gpt.Table{
		GUID: "6F2B9C1A-0D3E-4A5B-8C7D-112233445566", Size: 1170 * mib, FirstUsable: 16 * mib,
		Parts: []gpt.Part{
			{Number: 1, Name: "boot-a", Type: "BC13C2FF-59E6-4262-A352-B275FD6F7172", GUID: "00000000-0000-4000-8000-000000000001", Off: 16 * mib, Len: 128 * mib},
			{Number: 2, Name: "rootfs-a", Type: "B921B045-1DF0-41C3-AF44-4C6F280D3FAE", GUID: "00000000-0000-4000-8000-000000000002", Off: 144 * mib, Len: 1024 * mib},
		},
	}
}

func write(t *testing.T, table *gpt.Table) string {
	t.Helper()
	extents, err := table.Extents()
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.New(table.Size, extents...)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Truncate(table.Size)
	if _, err := image.Write(t.Context(), f, m.Chunks(image.PieceSize), nil); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSfdiskReadsTheTable(t *testing.T) {
	file := write(t, rock64())
	var got struct {
		PartitionTable struct {
			Label, ID         string
			FirstLBA, LastLBA int64
			Partitions        []struct {
				Start, Size             int64
				Type, UUID, Name, Attrs string
			}
		}
	}
	if err := json.Unmarshal([]byte(imagetest.Run(t, "sfdisk", "-J", file)), &got); err != nil {
		t.Fatal(err)
	}
	s := fmt.Sprintf("%+v", got.PartitionTable)
	want := "{Label:gpt ID:6F2B9C1A-0D3E-4A5B-8C7D-112233445566 FirstLBA:32768 LastLBA:2396126 Partitions:[" +
		"{Start:32768 Size:262144 Type:BC13C2FF-59E6-4262-A352-B275FD6F7172 UUID:00000000-0000-4000-8000-000000000001 Name:boot-a Attrs:} " +
		"{Start:294912 Size:2097152 Type:B921B045-1DF0-41C3-AF44-4C6F280D3FAE UUID:00000000-0000-4000-8000-000000000002 Name:rootfs-a Attrs:}]}"
	if s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

// clean asks sfdisk and sgdisk whether a table is good.
func clean(t *testing.T, file string) {
	t.Helper()
	if out := imagetest.Run(t, "sfdisk", "--verify", file); !strings.Contains(out, "No errors detected.") {
		t.Errorf("sfdisk --verify: %s", out)
	}
	if out := imagetest.Run(t, "sgdisk", "-v", file); !strings.Contains(out, "No problems found.") {
		t.Errorf("sgdisk -v: %s", out)
	}
}

func TestOthersFindTheTableCleanAndReadItAsWeDo(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 2))
		// Sizes around alignments, up to beyond what a protective MBR can say.
		table := &gpt.Table{GUID: "6F2B9C1A-0D3E-4A5B-8C7D-112233445566", FirstUsable: 16 * mib,
			Size: []int64{64*mib + 512, 1170 * mib, 3<<30 - 512, 512 << 30, 3 << 40}[seed%5]}
		at := table.FirstUsable
		for n := range r.IntN(6) {
			size := mib * (1 + r.Int64N(8))
			if at+size > table.Size-gpt.TailSize {
				break
			}
			table.Parts = append(table.Parts, gpt.Part{Number: 1 + n*3, Name: strings.Repeat("päß", 12)[:r.IntN(12)*5], Type: linux,
				GUID: fmt.Sprintf("00000000-0000-4000-8000-%012d", n), Off: at, Len: size, Attrs: uint64(r.IntN(2)) << 2})
			table.Parts[n].Name = strings.ToValidUTF8(table.Parts[n].Name, "")
			at += size + mib*r.Int64N(3)
		}
		file := write(t, table)
		clean(t, file)
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := gpt.Read(f, 512)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(plain(got), plain(table)) || !got.Usual() {
			t.Errorf("seed %d: got  %+v\nwant %+v", seed, got, table)
		}
		if backup, err := gpt.ReadBackup(f, 512, table.Size); err != nil || !backup.Same(got) || !reflect.DeepEqual(plain(backup), plain(table)) {
			t.Errorf("seed %d: the backup is %+v, %v", seed, backup, err)
		}
		second, err := diskfs.Read(f, 512, 512)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range second.Partitions {
			if want := table.Parts[i]; p.Index != want.Number || int64(p.Start)*512 != want.Off || p.Name != want.Name {
				t.Errorf("go-diskfs reads %+v, want %+v", p, want)
			}
		}
	}
}

// plain is what a table says, without its form.
func plain(t *gpt.Table) gpt.Table {
	return gpt.Table{GUID: t.GUID, Size: t.Size, FirstUsable: t.FirstUsable, Parts: t.Parts}
}

func TestFitMovesTheBackupToTheEndOfTheDisk(t *testing.T) {
	for _, size := range []int64{1170 * mib, 1170*mib + 512, 2385 * mib, 15_634_268_160, 3 << 40} {
		fitted, err := rock64().Fit(size)
		if err != nil {
			t.Fatal(err)
		}
		clean(t, write(t, fitted))
	}
	if _, err := rock64().Fit(1168*mib + gpt.TailSize - 512); err == nil {
		t.Error("a disk a sector too small passes")
	}
	if _, err := rock64().Fit(1168*mib + gpt.TailSize); err != nil {
		t.Error(err)
	}
}

func TestReadSeesDamage(t *testing.T) {
	file := write(t, rock64())
	disk, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{512, 512 + 16, 512 + 40, 512 + 72, 512 + 88, 1024, 1024 + 128 + 32, gpt.HeadSize - 1} {
		disk[at] ^= 1
		if _, err := gpt.Read(strings.NewReader(string(disk[:mib])), 512); err == nil {
			t.Errorf("a flipped bit in byte %d goes unseen", at)
		}
		disk[at] ^= 1
	}
	for _, n := range []int{0, 512, 1023, 1024, gpt.HeadSize - 1} {
		if _, err := gpt.Read(strings.NewReader(string(disk[:n])), 512); err == nil {
			t.Errorf("cut to %d bytes goes unseen", n)
		}
	}
}

func TestExtentsRefuseWhatDoesNotFit(t *testing.T) {
	for name, change := range map[string]func(*gpt.Table){
		"in the gap":            func(t *gpt.Table) { t.Parts[0].Off = 8 * mib },
		"over the backup table": func(t *gpt.Table) { t.Parts[1].Len = 1026 * mib },
		"unaligned":             func(t *gpt.Table) { t.Parts[1].Len += 100 },
		"a tiny disk":           func(t *gpt.Table) { t.Size = 4096 },
		"an odd disk":           func(t *gpt.Table) { t.Size += 100 },
	} {
		table := rock64()
		change(table)
		if _, err := table.Extents(); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}

func FuzzRead(f *testing.F) {
	extents, _ := rock64().Extents()
	head := make([]byte, gpt.HeadSize)
	extents[0].ReadAt(head, 0)
	f.Add(head)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, sector := range []int64{512, 4096} {
			if table, err := gpt.Read(strings.NewReader(string(b)), sector); err == nil {
				if fitted, err := table.Fit(1 << 40); err == nil {
					fitted.Tail()
				}
				table.Start()
				table.Overlap()
			}
		}
	})
}
