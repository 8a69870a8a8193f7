package mbr_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/mbr"
)

const mib = 1 << 20

// made is a disk of 64 MiB that sfdisk partitioned.
func made(t *testing.T, script string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 64*mib), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(imagetest.Need(t, "sfdisk"), "--quiet", file)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	return file
}

func TestPartitionsAreThoseOfSfdisk(t *testing.T) {
	imagetest.Long(t)
	for name, script := range map[string]string{
		"primary":   "label: dos\nstart=2048,size=4096,type=c,bootable\nstart=8192,size=4096,type=83\n",
		"gaps":      "label: dos\n2 : start=2048,size=4096,type=83\n4 : start=8192,size=4096,type=82\n",
		"logical":   "label: dos\nstart=2048,size=2048,type=c\nstart=4096,size=100000,type=5\n5 : start=6144,size=2048,type=83\n6 : start=10240,size=20480,type=82\n7 : start=40960,size=2048,type=83\n",
		"lba":       "label: dos\nstart=4096,size=100000,type=f\n5 : start=6144,size=2048,type=83\nstart=10240,size=2048,type=7\n",
		"linux":     "label: dos\nstart=4096,size=100000,type=85\n5 : start=6144,size=2048,type=83\n",
		"no chain":  "label: dos\nstart=4096,size=100000,type=5\n",
		"backwards": "label: dos\nstart=4096,size=100000,type=5\n5 : start=40960,size=2048,type=83\n6 : start=6144,size=2048,type=82\n",
	} {
		t.Run(name, func(t *testing.T) {
			file := made(t, script)
			var want struct {
				PartitionTable struct {
					Partitions []struct {
						Node, Type  string
						Start, Size int64
					}
				}
			}
			if err := json.Unmarshal([]byte(imagetest.Run(t, "sfdisk", "-J", file)), &want); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			table, err := mbr.Read(f, 512)
			if err != nil {
				t.Fatal(err)
			}
			if len(want.PartitionTable.Partitions) == 0 {
				t.Error("sfdisk finds no partitions")
			}
			var parts []mbr.Part
			for _, p := range want.PartitionTable.Partitions {
				number, _ := strconv.Atoi(regexp.MustCompile(`\d+$`).FindString(p.Node))
				kind, _ := strconv.ParseUint(p.Type, 16, 8)
				parts = append(parts, mbr.Part{Number: number, Type: byte(kind), First: p.Start, Count: p.Size})
			}
			if got, want := fmt.Sprint(table.Parts), fmt.Sprint(parts); got != want || table.Protective {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// entry is a disk with the given entries in the tables of some sectors.
func entry(b []byte, sector, i int, kind byte, first, count uint32) {
	s := b[sector*512:]
	s[510], s[511] = 0x55, 0xAA
	s[446+16*i+4] = kind
	binary.LittleEndian.PutUint32(s[446+16*i+8:], first)
	binary.LittleEndian.PutUint32(s[446+16*i+12:], count)
}

func TestChainsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   int // partitions, the extended one among them
	}{
		"whole":             {func(b []byte) []byte { return b }, 3},
		"cut":               {func(b []byte) []byte { return b[:30*512] }, 2},
		"no signature":      {func(b []byte) []byte { b[40*512+510] = 0; return b }, 2},
		"in a circle":       {func(b []byte) []byte { entry(b, 40, 1, 5, 0, 10); return b }, 101},
		"beyond any disk":   {func(b []byte) []byte { entry(b, 20, 1, 5, 1<<31, 10); return b }, 2},
		"third, in range":   {func(b []byte) []byte { entry(b, 20, 2, 0x83, 10, 5); return b }, 4},
		"third, not inside": {func(b []byte) []byte { entry(b, 20, 2, 0x83, 10, 500); return b }, 3},
		"an empty primary":  {func(b []byte) []byte { entry(b, 0, 1, 0x83, 7, 0); return b }, 3},
		"a type of zero":    {func(b []byte) []byte { entry(b, 0, 1, 0, 7, 7); return b }, 4},
		"sector 0":          {func(b []byte) []byte { entry(b, 0, 1, 0x17, 0, 64); return b }, 4},
	} {
		b := make([]byte, 64*512)
		entry(b, 0, 0, 5, 20, 44)
		entry(b, 20, 0, 0x83, 1, 5)
		entry(b, 20, 1, 5, 20, 10)
		entry(b, 40, 0, 0x83, 1, 5)
		table, err := mbr.Read(bytes.NewReader(c.change(b)), 512)
		if err != nil || len(table.Parts) != c.want {
			t.Errorf("%s: %v, %v; want %d partitions", name, table, err, c.want)
		}
	}
}

func TestWhatIsNoMBR(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":      {},
		"short":        make([]byte, 511),
		"no signature": make([]byte, 512),
		"boot code":    append(bytes.Repeat([]byte{0x90}, 510), 0x55, 0xAA),
	} {
		if _, err := mbr.Read(bytes.NewReader(b), 512); !errors.Is(err, mbr.ErrNone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAProtectiveEntryIsSaid(t *testing.T) {
	for i := range 4 {
		b := make([]byte, 512)
		entry(b, 0, (i+1)%4, 0x0C, 2048, 2048)
		entry(b, 0, i, mbr.GPT, 1, 777)
		table, err := mbr.Read(bytes.NewReader(b), 512)
		if err != nil || !table.Protective || table.Covered != 777 {
			t.Errorf("entry %d: %+v, %v", i+1, table, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	b := make([]byte, 64*512)
	entry(b, 0, 0, 5, 20, 44)
	entry(b, 20, 0, 0x83, 1, 5)
	entry(b, 20, 1, 5, 20, 10)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, sector := range []int64{512, 4096} {
			table, err := mbr.Read(bytes.NewReader(b), sector)
			if err != nil {
				continue
			}
			for _, p := range table.Parts {
				if p.First < 0 || p.Count <= 0 {
					t.Errorf("%+v", p)
				}
			}
		}
	})
}
