package boottest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"imgtool/image/imagetest"
	"imgtool/image/seed/api"
	"imgtool/image/vm"
)

// board is an emulated Rock64 with a flashed disk.
type board struct {
	t    *testing.T
	site *site
	disk string
	port uint16 // to the machine's WAN
	lan  uint16
	more func(m *vm.Machine) // changes the machine, or nil
}

// newBoard flashes the starter, with or without the seed of a new site on boot-a, to a disk
// of the size of a small eMMC.
func newBoard(t *testing.T, seeded bool) *board {
	t.Helper()
	needVM(t)
	b := &board{t: t, site: newSite(t)}
	img := starter(t, "boot-1")
	if seeded {
		imgtool(t, "seed", "put", img, b.site.seed)
	}
	b.disk = sparseFile(t, filepath.Join(t.TempDir(), "disk"), 4<<30)
	imgtool(t, "flash", "--yes", "--verify", "none", "-i", img, b.disk)
	for _, port := range []*uint16{&b.port, &b.lan} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*port = uint16(l.Addr().(*net.TCPAddr).Port)
		defer l.Close()
	}
	return b
}

func (b *board) machine(stick string) vm.Machine {
	m := vm.Machine{Disks: []vm.Disk{{Path: b.disk, Bus: "virtio", Keep: true}}, Forward: []vm.Forward{{Host: b.port, Guest: api.Port}}, LAN: []vm.Forward{{Host: b.lan, Guest: api.Port}}, Once: true}
	if stick != "" {
		m.Disks = append(m.Disks, vm.Disk{Path: stick, Bus: "usb"})
	}
	if b.more != nil {
		b.more(&m)
	}
	return m
}

// boots boots until a line is seen, cuts the power, and returns the console's text.
func (b *board) boots(until, stick string, replies ...vm.Reply) string {
	b.t.Helper()
	return imagetest.Boot(b.t, b.machine(stick), until, replies...)
}

// runs boots until a line is seen, calls work and cuts the power.
func (b *board) runs(until, stick string, work func()) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 15*time.Minute)
	defer cancel()
	m := b.machine(stick)
	running, err := m.Start(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	defer running.Kill()
	var log bytes.Buffer
	if _, err := running.Watch(&log, regexp.MustCompile(until).MatchString); err != nil {
		b.t.Fatalf("%v before %q was seen:\n%s", err, until, log.String())
	}
	go running.Watch(io.Discard, nil)
	work()
	return log.String()
}

func (b *board) url() string { return fmt.Sprintf("http://127.0.0.1:%d", b.port) }

func (b *board) lanURL() string { return fmt.Sprintf("http://127.0.0.1:%d", b.lan) }

// On a fresh flash, boot-a's seed is used, and the configuration is kept over the second
// boot. After /data was wiped boot-a's seed is not used again, but that of a stick is, or
// the device waits.
func TestFirstBootAndReprovisioning(t *testing.T) {
	t.Parallel()
	b := newBoard(t, true)
	log := b.boots(provisioned, "")
	wantLines(t, log, "fresh flash: yes", "/data mounted: f2fs on ", "first-boot: the boot partition has a config.toml (/dev/vda1)", "first-boot: the slot is marked good", "first-boot: provisioned")

	log = b.boots(`^web\.container`, "", vm.Reply{Seen: "first-boot: provisioned", Type: "\ncd /data/config; find * -type f; cat quadlet/web.container; " +
		"grep -h VmHWM $(grep -l first-boot /proc/[0-9]*/comm | sed s/comm/status/); ls /etc/containers/systemd/users/990\n"})
	var memory int
	if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(log); m == nil {
		t.Errorf("first-boot does not run:\n%s", log)
	} else if memory, _ = strconv.Atoi(m[1]); memory > 32<<10 {
		t.Errorf("first-boot took %d KiB of memory", memory)
	}
	t.Logf("first-boot took %d KiB", memory)
	wantLines(t, log, "fresh flash: no", "first-boot: the configuration of /data is taken", "first-boot: provisioned")
	for _, file := range []string{"config.toml", "users.json", "admin-signers", "ssh-authorized-keys/ops0", "firewall-inbound.json", "lan-settings.json", "host-network.json",
		"health-required.json", "activation-policy.json", "quadlet/web.container", "quadlet-runtime.json", "Image=registry.example/new:1"} {
		if !strings.Contains(log, "\n"+file) {
			t.Errorf("no %s in /data/config:\n%s", file, log)
		}
	}

	b.boots(`^wiped`, "", vm.Reply{Seen: "first-boot: provisioned", Type: "\nrm -rf /data/* /data/.c*; sync; echo wi''ped\n"})
	stick := sparseFile(t, filepath.Join(t.TempDir(), "stick"), 80<<20)
	onStick := filepath.Join(b.site.dir, "stick.toml")
	b.site.write(onStick, strings.Replace(string(imagetest.Read(t, b.site.seed)), "/new:1", "/stick:1", 1))
	imgtool(t, "seed", "stick", "--yes", stick, onStick)
	log = b.boots(provisioned, stick)
	wantLines(t, log, "fresh flash: no", "first-boot: the stick SEED seed has a config.toml (/dev/sda1)", "first-boot: provisioned")
	if strings.Contains(log, "the boot partition has a config.toml") {
		t.Errorf("the seed of boot-a was taken again:\n%s", log)
	}

	log = b.boots(`^wiped`, "", vm.Reply{Seen: "first-boot: provisioned", Type: "\nrm -rf /data/* /data/.c*; sync; echo wi''ped\n"})
	wantLines(t, log, "first-boot: the configuration of /data is taken")
	b.runs(waiting, "", func() {
		b.site.wants(0, "applied in", "provision", b.url(), "--seed", b.site.seed, "--wait", "10m")
		// The LAN's address is valid before and after the console closes on the WAN, a minute later.
		b.site.wants(0, "takes the signature of", "provision", b.lanURL(), "--seed", onStick, "--key", b.site.key(), "--wait", "10m")
		b.site.wants(0, "up, and has the configuration of", "provision", "status", b.lanURL(), "--seed", onStick, "--key", b.site.key(), "--wait", "10m")
	})

	// From now on the console is on the LAN only.
	log = b.runs(provisioned, "", func() {
		b.site.wants(9, "does not answer", "provision", "status", b.url())
		b.site.wants(0, "applied in", "provision", b.lanURL(), "--seed", b.site.seed, "--key", b.site.key(), "--wait", "10m")
	})
	wantLines(t, log, "fresh flash: no", "first-boot: the configuration of /data is taken", "first-boot: the console is at http://172.20.30.1:8080")
}

// An invalid seed is skipped, and the reason is reported.
func TestFirstBootWithABadSeed(t *testing.T) {
	t.Parallel()
	b := newBoard(t, false)
	bad := filepath.Join(b.site.dir, "bad.toml")
	b.site.write(bad, strings.Replace(string(imagetest.Read(t, b.site.seed)), "version = 1", "version = 2", 1))
	imagetest.Run(t, "mcopy", "-i", b.disk+"@@16M", bad, "::config.toml")
	const why = "the seed of the boot partition is not taken: config.toml:1: version: is (not shown); it must be 1"
	log := b.runs(waiting, "", func() {
		var h api.Health
		for range 900 {
			answer, err := http.Get(b.url() + api.PathHealth)
			if err != nil {
				time.Sleep(200 * time.Millisecond)
				continue
			}
			err = json.NewDecoder(answer.Body).Decode(&h)
			answer.Body.Close()
			if err != nil {
				t.Error(err)
			}
			break
		}
		if h.Status != "ok" || h.Detail != why {
			t.Errorf("health is %+v", h)
		}
	})
	wantLines(t, log, "fresh flash: yes", "first-boot: "+why)
	if got := tries(t, b.disk); got != "" {
		t.Errorf("nothing was applied, and the tries are %s", got)
	}
	b.runs(waiting, "", func() {
		b.site.wants(0, "applied in", "provision", b.url(), "--seed", b.site.seed, "--wait", "10m")
	})
	if got := tries(t, b.disk); !strings.HasPrefix(got, "BOOT_A_LEFT=good, ") {
		t.Errorf("a configuration was applied, and the tries are %s", got)
	}
	wantLines(t, b.boots(provisioned, ""), "fresh flash: no", "first-boot: the configuration of /data is taken")
}

// The services of a gateway run as configured: each is asked over the network.
func TestServicesOfTheStarter(t *testing.T) {
	t.Parallel()
	b := newBoard(t, true)
	ports := map[string]*uint16{"ssh": new(uint16), "ssh from the WAN": new(uint16), "dns": new(uint16)}
	for _, port := range ports {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*port = uint16(l.Addr().(*net.TCPAddr).Port)
		l.Close()
	}
	b.more = func(m *vm.Machine) {
		m.LAN = append(m.LAN, vm.Forward{Host: *ports["ssh"], Guest: 22}, vm.Forward{Host: *ports["dns"], Guest: 53})
		m.Forward = append(m.Forward, vm.Forward{Host: *ports["ssh from the WAN"], Guest: 22})
	}
	login := func(port uint16, command string) (string, error) {
		out, err := exec.Command("ssh", "-p", fmt.Sprint(port), "-i", b.site.key(), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile="+filepath.Join(b.site.dir, "known"),
			"-o", "StrictHostKeyChecking=accept-new", "-o", "ConnectTimeout=20", "-F", "none", "ops0@127.0.0.1", command).CombinedOutput()
		return string(out), err
	}
	host := ""
	for boot := range 2 {
		log := b.runs(provisioned, "", func() {
			if out, err := login(*ports["ssh"], "id"); err != nil || !strings.Contains(out, "uid=1000(ops0)") {
				t.Errorf("ssh from the LAN: %v: %s", err, out)
			}
			known := string(imagetest.Read(t, filepath.Join(b.site.dir, "known")))
			if boot > 0 && known != host {
				t.Errorf("the device has another SSH key after a boot: %s, %s", host, known)
			}
			host = known
			if out, err := login(*ports["ssh from the WAN"], "id"); err == nil {
				t.Errorf("ssh from the WAN, which is not open: %s", out)
			}
			resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", *ports["dns"]))
			}}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			if got, err := resolver.LookupHost(ctx, "atomixos."); err != nil || len(got) != 1 || got[0] != "172.20.30.1" {
				t.Errorf("dnsmasq says that atomixos is %v, %v", got, err)
			}
		})
		wantLines(t, log, "first-boot: provisioned")
	}
	log := b.boots(`^all seen`, "", vm.Reply{Seen: "first-boot: provisioned", Type: "\nnft list ruleset; ps | grep -E 'dnsmasq|chronyd|sshd'; ip -4 address show dev eth1; echo all se''en\n"})
	wantLines(t, log, "table inet atomixos {")
	for _, want := range []string{"policy drop;", `iifname "eth1" accept`, "/usr/bin/dnsmasq --keep-in-foreground", "/usr/bin/chronyd -n", "sshd: /usr/bin/sshd -D", "inet 172.20.30.1/24"} {
		if !strings.Contains(log, want) {
			t.Errorf("there is no %q:\n%s", want, log)
		}
	}
	if strings.Contains(log, "tcp dport 8080") {
		t.Errorf("the WAN reaches the console:\n%s", log)
	}
}

// A data partition that cannot be mounted is formatted again if it is empty; otherwise the
// device accepts no configuration. In both cases it is not provisioned.
func TestADataPartitionThatDoesNotMount(t *testing.T) {
	t.Parallel()
	b := newBoard(t, true)
	b.boots(provisioned, "")
	const begin, superblocks = 2320 << 20, 8 << 10
	disk, err := os.OpenFile(b.disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()

	// One of the two superblocks is sufficient.
	if _, err := disk.WriteAt(make([]byte, superblocks/2), begin); err != nil {
		t.Fatal(err)
	}
	wantLines(t, b.boots(provisioned, ""), "/data mounted: f2fs on ", "first-boot: the configuration of /data is taken")

	if _, err := disk.WriteAt(bytes.Repeat([]byte("?"), superblocks), begin); err != nil {
		t.Fatal(err)
	}
	log := b.runs("first-boot: the console is at", "", func() {
		b.site.wants(4, "the data partition is not mounted", "provision", b.url(), "--seed", b.site.seed, "--wait", "10m")
	})
	wantLines(t, log, "initrd: /dev/vda5 does not mount: checking it", "initrd: /data cannot be mounted; to start over, write zeros to the first 64 KiB of /dev/vda5",
		"first-boot: the data partition is not mounted at /data")
	if strings.Contains(log, "first-boot: provisioned") || strings.Contains(log, "marked good") {
		t.Errorf("it says that it is provisioned:\n%s", log)
	}

	if _, err := disk.WriteAt(make([]byte, 64<<10), begin); err != nil {
		t.Fatal(err)
	}
	log = b.runs(waiting, "", func() {
		b.site.wants(0, "applied in", "provision", b.url(), "--seed", b.site.seed, "--wait", "10m")
	})
	wantLines(t, log, "initrd: /dev/vda5 is empty: formatting /data again", "/data mounted: f2fs on ", "fresh flash: no")
	if strings.Contains(log, "first-boot: provisioned") {
		t.Errorf("it says that it is provisioned:\n%s", log)
	}
	log = b.boots(`^ro''?ot:|^logs`, "", vm.Reply{Seen: "first-boot: provisioned", Type: "\ncd /data; ls -1d config/quadlet config/ssh-authorized-keys containers; ls -d lo''gs\n"})
	wantLines(t, log, "first-boot: the configuration of /data is taken", "config/quadlet", "config/ssh-authorized-keys", "containers")
}

// After up to three power cuts at random moments of the first boot, the device is
// provisioned, or waits and can be provisioned.
func TestFirstBootWithPowerCuts(t *testing.T) {
	t.Parallel()
	n := 1
	if os.Getenv("SOAK") != "" {
		n = 30
	}
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	b := newBoard(t, true)
	flashed := b.disk
	kernel, end := regexp.MustCompile(`Linux version `), regexp.MustCompile(provisioned+"|"+waiting)
	const most = 320 // lines
	ends := map[string]int{}
	for i := range n {
		b.disk = filepath.Join(t.TempDir(), "disk")
		imagetest.Run(t, "cp", "--sparse=always", flashed, b.disk)
		var cuts []string
		for range 1 + rng.IntN(3) {
			// The power is cut after a line of the console, from the start of the kernel to the end.
			left, booted := rng.IntN(most), false
			m := b.machine("")
			running, err := m.Start(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			last := ""
			cut, err := running.Watch(io.Discard, func(line string) bool {
				booted = booted || kernel.MatchString(line)
				// A line may be seen before it is complete.
				if booted && !strings.HasPrefix(line, last) {
					left--
				}
				last = line
				return left < 0 || end.MatchString(line)
			})
			if err != nil {
				t.Fatal(err)
			}
			cuts = append(cuts, cut)
			running.Kill()
		}
		state := "waiting"
		log := b.runs(end.String(), "", func() {})
		if strings.Contains(log, "first-boot: provisioned") {
			state = "provisioned"
		} else {
			b.runs(waiting, "", func() {
				b.site.wants(0, "applied in", "provision", b.url(), "--seed", b.site.seed, "--wait", "10m")
			})
			if log := b.boots(provisioned, ""); !strings.Contains(log, "/data mounted: f2fs") {
				t.Errorf("%d: after %q: it has no data:\n%s", i, cuts, log)
			}
		}
		ends[state]++
		t.Logf("%d: cut after %q: %s; %d lines", i, cuts, state, strings.Count(log, "\n"))
		os.Remove(b.disk)
	}
	t.Logf("%d devices: %v", n, ends)
}
