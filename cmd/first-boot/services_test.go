//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"imgtool/image/seed/api"
)

func TestServices(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	pids := filepath.Join(t.TempDir(), "pids")
	lasting := daemon{"lasting", 0, []string{"/bin/sh", "-c", "echo $$ >>" + pids + "; exec sleep 1000"}}
	var reported []string
	report := func(e api.Event) { reported = append(reported, e.Service+" "+e.Status) }
	var s services
	defer func() { s.restart(nil, report) }()
	for range 2 {
		reported = nil
		if err := s.restart([]daemon{lasting, {"answering", port, []string{"/bin/sleep", "1000"}}}, report); err != nil {
			t.Fatal(err)
		}
		if want := "[lasting.service running answering.service running]"; fmt.Sprint(reported) != want {
			t.Errorf("%v is reported", reported)
		}
	}
	text, _ := os.ReadFile(pids)
	started := strings.Fields(string(text))
	if len(started) != 2 {
		t.Fatalf("%q was started", started)
	}
	alive := func(i int) bool {
		pid, _ := strconv.Atoi(started[i])
		return syscall.Kill(pid, 0) == nil
	}
	if alive(0) || !alive(1) {
		t.Errorf("the first daemon runs: %v, the second: %v", alive(0), alive(1))
	}
	begin := time.Now()
	err = s.restart([]daemon{lasting, {"failing", port + 1, []string{"/bin/sh", "-c", "exit 3"}}}, report)
	if err == nil || err.Error() != "failing: exit status 3" || time.Since(begin) > starting {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
	if err := s.restart(nil, report); err != nil || alive(1) {
		t.Errorf("at the end: %v, the second runs: %v", err, alive(1))
	}
}
