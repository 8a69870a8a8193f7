//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"imgtool/image/seed/api"
)

// daemon is a program that runs permanently.
type daemon struct {
	name string
	port int      // TCP port on 127.0.0.1 at which it answers when it is ready; 0: none
	args []string // the program and its arguments
}

// daemons are the daemons of a gateway. activate writes their configuration files.
var daemons = []daemon{
	{"dnsmasq", 53, []string{"/usr/bin/dnsmasq", "--keep-in-foreground", "--conf-file=/etc/dnsmasq.d/lan.conf"}},
	{"chronyd", 0, []string{"/usr/bin/chronyd", "-n", "-f", "/etc/chrony.conf"}},
	{"sshd", 22, []string{"/usr/bin/sshd", "-D", "-f", "/etc/ssh/sshd_config"}},
}

const (
	starting = 20 * time.Second // time limit for a daemon to be ready
	settling = time.Second      // how long a daemon without a port must run to count as ready
	again    = 5 * time.Second  // pause before a daemon is restarted; doubles each time
	longest  = 5 * time.Minute
)

// services are the running daemons. They end with this program.
type services struct {
	mu   sync.Mutex
	stop context.CancelFunc
	end  sync.WaitGroup
}

const nft = "/usr/bin/nft"

// startServices loads the firewall rules and restarts the daemons. It does nothing for programs
// that the starter does not have, or if the root is a directory.
func (d *device) startServices(report func(api.Event)) error {
	if d.root != "/" {
		return nil
	}
	if err := d.loadFirewall(report); err != nil {
		return err
	}
	if err := d.sshd(); err != nil {
		return err
	}
	present := slices.DeleteFunc(slices.Clone(daemons), func(s daemon) bool {
		_, err := os.Stat(s.args[0])
		return err != nil
	})
	return d.running.restart(present, report)
}

// stopServices stops the daemons and removes the firewall rules, so that the device waits for its
// first configuration again.
func (d *device) stopServices() error {
	if d.root != "/" {
		return nil
	}
	err := d.running.restart(nil, func(api.Event) {})
	if _, e := os.Stat(nft); e == nil {
		// The table may not exist.
		d.run("taking away the rules of the firewall", nft, "delete", "table", "inet", "atomixos")
	}
	return err
}

// loadFirewall loads the rules in /etc/nftables.conf.
func (d *device) loadFirewall(report func(api.Event)) error {
	if _, err := os.Stat(nft); err != nil || d.root != "/" {
		return nil
	}
	if err := d.run("loading the rules of the firewall", nft, "-f", "/etc/nftables.conf"); err != nil {
		return err
	}
	report(api.Event{Step: "activate", Message: "the rules of the firewall are loaded"})
	return nil
}

// sshd writes the configuration of sshd. Its host key is created once, on /data.
func (d *device) sshd() error {
	if _, err := os.Stat("/usr/bin/sshd"); err != nil {
		return nil
	}
	key := filepath.Join(d.store.dir, "ssh/ssh_host_ed25519_key")
	if err := os.MkdirAll(filepath.Dir(key), 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(key); err != nil {
		os.Remove(key + ".new")
		if err := d.run("making the device's SSH key", "/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key+".new"); err != nil {
			return err
		}
		if err := errors.Join(d.store.sync(), os.Rename(key+".new.pub", key+".pub"), os.Rename(key+".new", key), d.store.sync()); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		return err
	}
	return d.etc("ssh/sshd_config", "HostKey "+key+"\nAuthorizedKeysFile /etc/"+keysDir+"/%u\nPermitRootLogin no\nPasswordAuthentication no\n"+
		"KbdInteractiveAuthentication no\nUsePAM no\nPidFile none\n", 0o644)
}

// restart stops the running daemons and starts others. It fails if a daemon is not ready in
// time.
func (s *services) restart(list []daemon, report func(api.Event)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
		s.end.Wait()
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	failed := make(chan error, len(list))
	for _, one := range list {
		s.end.Go(func() { one.keep(ctx, failed) })
	}
	for _, one := range list {
		if err := one.ready(failed); err != nil {
			return err
		}
		report(api.Event{Step: "service-status", Service: one.name + ".service", Mode: "rootful", Status: "running"})
	}
	return nil
}

// ready waits until the daemon is ready, or any daemon fails.
func (s daemon) ready(failed <-chan error) error {
	wait := settling
	for end := time.Now().Add(starting); ; wait = 100 * time.Millisecond {
		if s.port != 0 {
			conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), starting)
			if err == nil {
				return conn.Close()
			}
			if time.Now().After(end) {
				return fmt.Errorf("%s does not answer at port %d after %v", s.name, s.port, starting)
			}
		}
		select {
		case err := <-failed:
			return err
		case <-time.After(wait):
		}
		if s.port == 0 {
			return nil
		}
	}
}

// keep runs the daemon until the context ends, and restarts it whenever it ends.
func (s daemon) keep(ctx context.Context, failed chan<- error) {
	// Pdeathsig is sent when the thread that started the process ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pause := again
	for first := true; ctx.Err() == nil; first = false {
		cmd := exec.CommandContext(ctx, s.args[0], s.args[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 3 * time.Second
		cmd.Stderr = &lines{name: s.name}
		err := cmd.Run()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended")
		}
		err = fmt.Errorf("%s: %w", s.name, err)
		if first {
			select {
			case failed <- err:
			default:
			}
		}
		say("%v; it is started again in %v", err, pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, longest)
	}
}

// lines logs the output of a daemon line by line.
type lines struct {
	name string
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok && len(l.rest) < 1000 {
			return len(p), nil
		}
		if len(bytes.TrimSpace(line)) > 0 {
			say("%s: %s", l.name, line)
		}
		l.rest = rest
	}
}
