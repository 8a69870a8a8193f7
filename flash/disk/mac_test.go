package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"

	"imgtool/flash/disk"
	"imgtool/flash/disk/match"
	"imgtool/flash/disk/usb"
)

// recordedMac is a Mac whose programs answer from a file. See testdata/README.md.
type recordedMac struct {
	answers map[string][]byte
	fails   map[string]bool
	ran     []string
}

func readMac(t testing.TB, name string) *recordedMac {
	t.Helper()
	a, err := txtar.ParseFile("testdata/macs/" + name + ".txtar")
	if err != nil {
		t.Fatal(err)
	}
	r := &recordedMac{answers: map[string][]byte{}, fails: map[string]bool{}}
	for _, f := range a.Files {
		r.answers[f.Name] = f.Data
	}
	return r
}

const notFound = `<?xml version="1.0" encoding="UTF-8"?>
<plist version="1.0"><dict><key>Error</key><true/><key>ErrorMessage</key><string>Could not find disk</string></dict></plist>`

func (r *recordedMac) run(args ...string) ([]byte, error) {
	command := strings.Join(args, " ")
	r.ran = append(r.ran, command)
	out, ok := r.answers[command]
	if !ok {
		return []byte(notFound), errors.New("exit status 1")
	}
	if r.fails[command] {
		return out, errors.New("exit status 1")
	}
	return out, nil
}

func (r *recordedMac) look() (*disk.Mac, error) {
	var mounts [][2]string
	for line := range strings.Lines(string(r.answers["mounts"])) {
		from, at, _ := strings.Cut(strings.TrimSpace(line), " on ")
		mounts = append(mounts, [2]string{from, at})
	}
	return disk.LookMac(r.run, mounts)
}

func (r *recordedMac) disks(t *testing.T) map[string]*disk.Disk {
	t.Helper()
	m, err := r.look()
	if err != nil {
		t.Fatal(err)
	}
	all, err := m.Disks()
	if err != nil {
		t.Fatal(err)
	}
	disks := map[string]*disk.Disk{}
	for _, d := range all {
		disks[d.Name] = &d
	}
	return disks
}

const (
	macSystem = "disk0: this system runs from it (/dev/disk1s1 is mounted at /System/Volumes/iSCPreboot; /dev/disk3s1s1 is mounted at /; " +
		"/dev/disk3s2 is mounted at /System/Volumes/Preboot; /dev/disk3s3 is mounted at /System/Volumes/VM; " +
		"/dev/disk3s4 is mounted at /System/Volumes/Data)"
	macBuiltIn = ": it is an internal disk: use an external disk or a card"
)

func TestMacCheck(t *testing.T) {
	for mac, want := range map[string][]string{
		"macbook": {
			macSystem,
			"disk10: ok",
			"disk4: ok, after unmounting /Volumes/STICK",
			"disk5: ok, after unmounting /Volumes/NO NAME",
			"disk6: ok",
			"disk7: it is read-only: look for a write-protect switch",
			"disk9" + macBuiltIn,
		},
		"twins": {
			macSystem,
			"disk4: ok, after unmounting /Volumes/STICK",
			"disk5: ok, after unmounting /Volumes/STICK 1",
		},
		"external": {
			macSystem,
			"disk10: /dev/disk12 is an APFS container on several disks (disk10s1, disk11s1): unmount or release it first",
			"disk11: /dev/disk12 is an APFS container on several disks (disk10s1, disk11s1): unmount or release it first",
			"disk13: /dev/disk14s1 is mounted at /nix: unmount or release it first",
			"disk4: ok, after unmounting /Volumes/Backup, /Volumes/Photos",
			"disk6: /dev/disk6s2 is part of an AppleRAID set: unmount or release it first",
			"disk7: /dev/disk7s2 is part of an AppleRAID set: unmount or release it first",
			"disk9: /dev/disk9s2 is part of a CoreStorage group: unmount or release it first",
		},
		"booted-external": {
			"disk0" + macBuiltIn,
			"disk4: this system runs from it (/dev/disk5s1s1 is mounted at /; /dev/disk5s2 is mounted at /System/Volumes/Data)",
			"disk6: ok",
		},
		"rootless": {
			"disk0" + macBuiltIn,
			"disk4: this system runs from it",
			"disk5: ok",
		},
		"ums": {
			macSystem,
			"disk4: ok",
			"disk5: ok, after unmounting /Volumes/STICK",
		},
	} {
		for _, who := range []string{"by diskutil and the kernel", "by diskutil alone"} {
			t.Run(mac+" "+who, func(t *testing.T) {
				r := readMac(t, mac)
				if who == "by diskutil alone" {
					delete(r.answers, "mounts")
				}
				var got []string
				for name, d := range r.disks(t) {
					says := "ok"
					if err := d.Check(disk.Need{Size: 1 << 20, SectorSize: d.SectorSize, Fixed: true, Serial: d.Serial}); err != nil {
						says = strings.TrimPrefix(err.Error(), d.Path+": ")
					} else if len(d.Mounted) > 0 {
						says += ", after unmounting " + strings.Join(d.Mounted, ", ")
					}
					got = append(got, name+": "+says)
				}
				slices.Sort(got)
				if d := cmp.Diff(want, got); d != "" {
					t.Error(d)
				}
			})
		}
	}
}

func TestMacSystemDiskFromKernelMounts(t *testing.T) {
	r := readMac(t, "booted-external")
	list := string(r.answers["diskutil list -plist"])
	for _, key := range []string{"MountPoint", "SnapshotMountPoint"} {
		list = strings.ReplaceAll(list, "<key>"+key+"</key>", "<key>Other</key>")
	}
	r.answers["diskutil list -plist"] = []byte(list)
	d := r.disks(t)["disk4"]
	if !d.System {
		t.Errorf("disk4 carries / and may be written: %+v", d)
	}
}

func TestMacDescribe(t *testing.T) {
	stick := usb.Device{Port: "20-2", VendorID: "0781", ProductID: "5581", BCD: "0100", Manufacturer: "SanDisk", Product: "Ultra",
		Serial: "4C530001231117115142", Interface: "08/06/50"}
	for name, want := range map[string]disk.Disk{
		"disk4": {Size: 30752000000, SectorSize: 512, Model: "Ultra", Vendor: "SanDisk", Rev: "1.00", Serial: stick.Serial, Bus: "usb", USB: &stick,
			Removable: true, Parts: []disk.Part{{Name: "disk4s1", Off: 20480, Size: 30751958016}}, Mounted: []string{"/Volumes/STICK"}},
		"disk5": {Size: 31914983424, SectorSize: 512, Model: "Built In SDXC Reader", Bus: "mmc", Kind: "SD",
			Removable: true, Parts: []disk.Part{{Name: "disk5s1", Off: 20480, Size: 31910789120}}, Mounted: []string{"/Volumes/NO NAME"}},
		"disk6":  {Size: 1 << 30, SectorSize: 512, Model: "Disk Image", Bus: "loop", Removable: true},
		"disk9":  {Size: 2000398934016, SectorSize: 512, Model: "Second SSD", Bus: "nvme", Internal: true},
		"disk10": {Size: 1000204886016, SectorSize: 512, Model: "Samsung SSD 990 PRO", Bus: "nvme", Removable: true, Parts: []disk.Part{{Name: "disk10s1", Off: 20480, Size: 1000204800000}}},
	} {
		want.Path, want.Name = "/dev/"+name, name
		got := readMac(t, "macbook").disks(t)[name]
		if got.Diskseq == 0 {
			t.Errorf("%s has no number", name)
		}
		got.Diskseq = 0
		if d := cmp.Diff(&want, got, cmpopts.IgnoreUnexported(disk.Disk{})); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}

func TestMacUSBDevices(t *testing.T) {
	m, err := readMac(t, "macbook").look()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range m.USBDevices() {
		got = append(got, fmt.Sprintf("%s %s %s %s", u.Port, u.ID(), u.Product, u.Interface))
	}
	want := []string{
		"20-1 05e3:0610 USB2.1 Hub 09/00/01",
		"20-1.2 05e3:0749 USB3.0 Card Reader 08/06/50",
		"20-2 0781:5581 Ultra 08/06/50",
		"20-3 0fce:0bad Unconfigured ",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestMacFind(t *testing.T) {
	m, err := readMac(t, "macbook").look()
	if err != nil {
		t.Fatal(err)
	}
	if d, err := m.Find("/dev/rdisk4", "disk4"); err != nil || d.Path != "/dev/disk4" {
		t.Errorf("%+v, %v", d, err)
	}
	for name, want := range map[string]string{
		"disk4s1": "a partition of /dev/disk4: name the whole disk",
		"disk3":   "an APFS container on disk0s2 is not a whole disk",
		"disk3s1": "an APFS container on disk0s2 is not a whole disk",
		"disk8":   "an optical drive is not a disk to write an image to",
		"disk77":  "diskutil does not list this disk",
	} {
		_, err := m.Find("/dev/"+name, name)
		if refused, ok := errors.AsType[*disk.RefusedError](err); !ok || refused.Reason != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if m, err = readMac(t, "external").look(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Find("/dev/disk8", "disk8"); err == nil || !strings.Contains(err.Error(), "an array") {
		t.Errorf("an array: %v", err)
	}
}

func TestMacReplacedDisk(t *testing.T) {
	disks := readMac(t, "twins").disks(t)
	a, b := disks["disk4"], disks["disk5"]
	if err := a.SameAs(a); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*disk.Disk){
		"its twin":         func(d *disk.Disk) { *d = *b },
		"another size":     func(d *disk.Disk) { d.Size -= 512 },
		"other sectors":    func(d *disk.Disk) { d.SectorSize = 4096 },
		"another serial":   func(d *disk.Disk) { d.Serial = "x" },
		"no number at all": func(d *disk.Disk) { d.Diskseq = 0 },
	} {
		now := *a
		change(&now)
		if _, gone := errors.AsType[*disk.GoneError](a.SameAs(&now)); !gone {
			t.Errorf("%s is taken for the same", what)
		}
	}
}

func TestMacUnmount(t *testing.T) {
	r := readMac(t, "external")
	m, err := r.look()
	if err != nil {
		t.Fatal(err)
	}
	d, err := m.Find("/dev/disk4", "disk4")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"diskutil unmountDisk disk5", "diskutil unmountDisk disk4"} {
		r.answers[command] = []byte("Unmount of all volumes was successful\n")
	}
	r.ran = nil
	if err := m.Unmount(d); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"diskutil unmountDisk disk5", "diskutil unmountDisk disk4"}, r.ran); d != "" {
		t.Error(d)
	}
	r.answers["diskutil unmountDisk disk5"] = []byte("Unmount of disk5 failed:\nat least one volume could not be unmounted\n")
	r.fails["diskutil unmountDisk disk5"] = true
	err = m.Unmount(d)
	want := "/dev/disk4: its volumes cannot be unmounted (Unmount of disk5 failed: at least one volume could not be unmounted): close the programs that use them"
	if _, refused := errors.AsType[*disk.RefusedError](err); !refused || err.Error() != want {
		t.Error(err)
	}
}

func TestMacMatch(t *testing.T) {
	board := match.Board{USB: []match.USB{{VendorID: "2207", ProductIDs: []string{"320c", "330a", "0010"}, Interface: "08/06/50",
		Manufacturer: "Rockchip", Product: "USB download gadget", Vendor: "Linux", Model: "UMS disk [0-9]+", Rev: "ffff"}}}
	m, err := readMac(t, "ums").look()
	if err != nil {
		t.Fatal(err)
	}
	disks, err := m.Disks()
	if err != nil {
		t.Fatal(err)
	}
	hits, near := board.Find(disks, m.USBDevices())
	if len(hits) != 1 || hits[0].Name != "disk4" || hits[0].USB.Port != "20-2.3" || len(near) > 0 {
		t.Errorf("hits %+v, near %v", hits, near)
	}
}

func TestMacWithoutUSB(t *testing.T) {
	r := readMac(t, "macbook")
	r.answers["ioreg -a -l -r -c IOUSBHostDevice"] = nil // as ioreg prints without devices
	d := r.disks(t)["disk4"]
	if d.USB != nil || d.Serial != "" || d.Model != "Ultra" || d.Bus != "usb" {
		t.Errorf("%+v", d)
	}
}

func TestMacMissingKeyCountsAsInternal(t *testing.T) {
	r := readMac(t, "macbook")
	const command = "diskutil info -plist disk10"
	r.answers[command] = bytes.ReplaceAll(r.answers[command], []byte("<key>Internal</key>"), []byte("<key>Other</key>"))
	if d := r.disks(t)["disk10"]; !d.Internal {
		t.Errorf("%+v", d)
	}
}

func TestMacDiskUnpluggedMeanwhile(t *testing.T) {
	r := readMac(t, "macbook")
	delete(r.answers, "diskutil info -plist disk4")
	if r.disks(t)["disk4"] != nil {
		t.Error("disk4 is still there")
	}
	m, err := r.look()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Find("/dev/disk4", "disk4"); err == nil || !strings.Contains(err.Error(), "Could not find disk") {
		t.Error(err)
	}
}

func TestMacUSBStringsWithInvalidXML(t *testing.T) {
	r := readMac(t, "macbook")
	const command = "ioreg -a -l -r -c IOUSBHostDevice"
	r.answers[command] = bytes.ReplaceAll(r.answers[command], []byte("<string>SanDisk</string>"), []byte("<string>San\x01Disk\xff</string>"))
	if d := r.disks(t)["disk4"]; d.USB == nil || d.USB.Manufacturer != "SanDisk\ufffd" {
		t.Errorf("%+v", d.USB)
	}
}

func TestMacErrorsNameTheCommand(t *testing.T) {
	for _, command := range []string{
		"diskutil list -plist", "diskutil info -plist disk4",
		"ioreg -a -l -r -c IOMedia", "ioreg -a -l -r -c IOUSBHostDevice",
	} {
		whole := readMac(t, "macbook").answers[command]
		for what, answer := range map[string][]byte{
			"cut short":  whole[:len(whole)/2],
			"plain text": []byte("Usage: diskutil [quiet] <verb>"),
			"not closed": []byte("<?xml version=\"1.0\"?><plist><dict><key>"),
		} {
			r := readMac(t, "macbook")
			r.answers[command] = answer
			m, err := r.look()
			if err == nil {
				_, err = m.Disks()
			}
			if err == nil || !strings.Contains(err.Error(), command+": ") {
				t.Errorf("%s, %s: %v", command, what, err)
			}
		}
	}
	for what, list := range map[string]string{
		"without a name":    `<plist version="1.0"><dict><key>AllDisksAndPartitions</key><array><dict/></array></dict></plist>`,
		"of nothing":        `<plist version="1.0"><dict/></plist>`,
		"that is a list":    `<plist version="1.0"><array/></plist>`,
		"of strange names":  `<plist version="1.0"><dict><key>AllDisksAndPartitions</key><array><dict><key>DeviceIdentifier</key><string>../x</string></dict></array></dict></plist>`,
		"that is not there": ``,
	} {
		r := readMac(t, "macbook")
		r.answers["diskutil list -plist"] = []byte(list)
		if _, err := r.look(); err == nil || !strings.Contains(err.Error(), "diskutil list -plist: ") {
			t.Errorf("a list %s: %v", what, err)
		}
	}
}

// For any output of the programs, no disk that carries / by the kernel's word may
// be written.
func FuzzMac(f *testing.F) {
	for _, name := range []string{"macbook", "external", "booted-external", "ums"} {
		r := readMac(f, name)
		f.Add(r.answers["diskutil list -plist"], r.answers["diskutil info -plist disk4"],
			r.answers["ioreg -a -l -r -c IOMedia"], r.answers["ioreg -a -l -r -c IOUSBHostDevice"])
	}
	f.Fuzz(func(t *testing.T, list, info, media, usb []byte) {
		r := &recordedMac{answers: map[string][]byte{"diskutil list -plist": list, "ioreg -a -l -r -c IOMedia": media,
			"ioreg -a -l -r -c IOUSBHostDevice": usb, "mounts": []byte("/dev/disk4s1 on /\n")}}
		for i := range 12 {
			name := fmt.Sprintf("disk%d", i)
			r.answers["diskutil info -plist "+name] = bytes.ReplaceAll(info, []byte("disk4"), []byte(name))
		}
		m, err := r.look()
		if err != nil {
			return
		}
		disks, err := m.Disks()
		if err != nil {
			return
		}
		for _, d := range disks {
			if d.Name == "disk4" && d.Check(disk.Need{}) == nil {
				t.Errorf("%+v", d)
			}
		}
		match.Board{USB: []match.USB{{VendorID: "2207"}}}.Find(disks, m.USBDevices())
	})
}
