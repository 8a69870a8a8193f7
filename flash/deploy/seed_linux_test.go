package deploy_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/flash"
	"imgtool/flash/deploy"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compose"
	"imgtool/image/fat"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/imagetest"
	"imgtool/image/seed/seedfile"
	"imgtool/image/seed/seedtest"
	"imgtool/image/volume"
)

const mib = 1 << 20

// minimal is a seed that a Rock64 accepts.
const minimal = seedtest.Minimal

// monitor keeps messages.
type monitor struct{ messages []string }

func (m *monitor) add(format string, args ...any) {
	m.messages = append(m.messages, fmt.Sprintf(format, args...))
}
func (m *monitor) Infof(format string, args ...any)   { m.add(format, args...) }
func (m *monitor) Warnf(format string, args ...any)   { m.add("warning: "+format, args...) }
func (m *monitor) Notef(format string, args ...any)   { m.add(format, args...) }
func (m *monitor) Phase(string, int64) image.Progress { return nil }
func (m *monitor) EndPhase()                          {}
func (m *monitor) Expect(...deploy.Phase)             {}
func (m *monitor) Disk(string) (image.Phases, func(error)) {
	return nil, func(error) {}
}
func (m *monitor) SetLeft(string, flash.State) {}

// rock64 returns an image with the boot partition of a Rock64.
func rock64(t *testing.T) *image.Image {
	t.Helper()
	boot, err := fat.New(16*mib, fat.Options{Label: "BOOT", Serial: 1, Time: 1_700_000_000}, []fat.File{{Path: "Image", Content: strings.NewReader("kernel")}})
	if err != nil {
		t.Fatal(err)
	}
	table := gpt.Table{GUID: "11111111-1111-1111-1111-111111111111", Size: 40 * mib, FirstUsable: gpt.HeadSize, Parts: []gpt.Part{
		{Number: 1, Name: "boot-a", Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "22222222-2222-2222-2222-222222222222", Off: 16 * mib, Len: 16 * mib}}}
	extents, err := table.Extents()
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.New(table.Size, append(extents, image.Extent{Name: "boot-a", Off: 16 * mib, Content: boot})...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// write writes an image to a new file.
func write(t *testing.T, img *image.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x1-disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := image.Write(t.Context(), f, img.Chunks(image.PieceSize), nil); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(img.Size()); err != nil {
		t.Fatal(err)
	}
	return path
}

// A seed goes onto a disk and off it again, and all other bytes stay. A disk in use is
// refused.
func TestSaveSeed(t *testing.T) {
	path := write(t, rock64(t))
	dev := imagetest.Loop(t, path)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor{}
	begun := 0
	opt := deploy.Options{Monitor: m, Stall: time.Minute, Begin: func() func() { begun++; return func() {} }}
	seed := compose.SeedOptions{Reporter: m, Seed: &seedfile.Seed{Name: "x", Text: []byte(minimal)}}
	save := func(seed compose.SeedOptions, want string) {
		t.Helper()
		m.messages = nil
		if err := deploy.SaveSeed(t.Context(), dev, seed, opt); err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(m.messages, "\n"); !strings.Contains(all, want) {
			t.Errorf("%q is missing in %q", want, all)
		}
	}
	save(seed, "is in it, and read back")
	save(seed, "nothing to do")
	if begun != 1 {
		t.Errorf("writing began %d times, want once", begun)
	}
	boot := filepath.Join(t.TempDir(), "boot")
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(boot, after[16*mib:32*mib], 0o644); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, imagetest.Need(t, "fsck.fat"), "-n", boot)
	if text := imagetest.Run(t, imagetest.Need(t, "mtype"), "-i", boot, "::config.toml"); text != minimal {
		t.Errorf("mtype reads the seed %q", text)
	}
	seed.Seed = nil
	save(seed, "the seed is removed")
	if after, err = os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the disk differs after the seed was removed: %v", err)
	}
	f, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := deploy.SaveSeed(t.Context(), dev, seed, opt); !errors.As(err, new(*disk.RefusedError)) && fault.Kind(err) != fault.Refused {
		t.Errorf("a disk in use: %v", err)
	}
}

func TestWriteFile(t *testing.T) {
	sfdisk := imagetest.Need(t, "sfdisk")
	img := rock64(t)
	m := &artifact.Manifest{Board: "rock64", BuildID: "0123", Floor: 64 * mib}
	m.Size = img.Size()
	src := volume.FromImage("x.img", img, m)
	for _, c := range []struct {
		size, want int64
		err        string
	}{
		{0, 4 << 30, ""},
		{100 * mib, 100 * mib, ""},
		{100*mib + 1, 0, "no whole number of sectors"},
		{63 * mib, 0, "a disk of 66060288 bytes is too small: x.img needs 67108864"},
	} {
		f, err := deploy.CreateFile(t.Context(), "", src, c.size, &monitor{})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || fault.Kind(err) != fault.Usage {
				t.Errorf("%d bytes: got %v, want %s", c.size, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil || info.Size() != c.want {
			t.Errorf("the disk has %d bytes, want %d", info.Size(), c.want)
		}
		if out := imagetest.Run(t, sfdisk, "--verify", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())); !strings.Contains(out, "No errors") {
			t.Error(out)
		}
		f.Close()
	}
	path := filepath.Join(t.TempDir(), "disk")
	f, err := deploy.CreateFile(t.Context(), path, src, 64*mib, &monitor{})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if info, err := os.Stat(path); err != nil || info.Size() != 64*mib {
		t.Errorf("the file: %v", err)
	}
}
