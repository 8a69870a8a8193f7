//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/image/seed/console"
)

// server serves the console at one address at a time.
type server struct {
	handler http.Handler

	mu   sync.Mutex
	on   *http.Server
	at   string
	stop context.CancelFunc // of announce
}

// listen moves to another address, after running requests have ended.
func (s *server) listen(ctx context.Context, at string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at == s.at {
		return nil
	}
	if s.on != nil {
		end, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		s.on.Shutdown(end)
		s.on.Close()
	}
	// The address can be configured later.
	anywhere := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(e, err)
	}}
	l, err := anywhere.Listen(ctx, "tcp4", at)
	if err != nil {
		return err
	}
	s.on, s.at = console.NewServer(s.handler), at
	go s.on.Serve(console.Limit(l))
	if s.stop != nil {
		s.stop()
	}
	ctx, s.stop = context.WithCancel(ctx)
	go announce(ctx, l.Addr().(*net.TCPAddr))
	return nil
}

// announce logs the address of the console. If it listens on all interfaces, these are the
// addresses of the device, which it can get and change later.
func announce(ctx context.Context, at *net.TCPAddr) {
	if !at.IP.IsUnspecified() {
		say("the console is at http://%s", at)
		return
	}
	var known []string
	for first := true; ; first = false {
		now := addresses()
		for _, ip := range now {
			if !slices.Contains(known, ip) {
				say("the console is at http://%s", net.JoinHostPort(ip, strconv.Itoa(at.Port)))
			}
		}
		if first && len(now) == 0 {
			say("the console is on port %d; the network has no address yet", at.Port)
		}
		known = now
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// addresses returns the IPv4 addresses of the device on its networks.
func addresses() []string {
	var all []string
	list, _ := net.InterfaceAddrs()
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			all = append(all, n.IP.String())
		}
	}
	return all
}
