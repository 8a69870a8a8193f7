//go:build unix

// Package authopen opens files through the macOS program authopen, which asks for an
// administrator's password and passes the descriptor on: see authopen(1).
package authopen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Program is where macOS has authopen.
const Program = "/usr/libexec/authopen"

// Open opens a file with the flags of open(2). program is [Program], or another one in tests.
func Open(ctx context.Context, program, path string, flags int) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	unix.CloseOnExec(pair[0])
	unix.CloseOnExec(pair[1])
	ours, theirs := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	defer conn.Close()

	cmd := exec.CommandContext(ctx, program, "-stdoutpipe", "-o", strconv.Itoa(flags), path)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = theirs, &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	theirs.Close() // the program has its own, so that its end ends the reading
	f, readErr := receive(conn.(*net.UnixConn), path)
	if err := cmd.Wait(); err != nil && f == nil {
		text := strings.TrimSpace(said.String())
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("authopen: %w %s", err, text)
	}
	return f, readErr
}

// receive returns the first descriptor that a socket receives.
func receive(conn *net.UnixConn, path string) (*os.File, error) {
	var file *os.File
	for {
		data, control := make([]byte, 256), make([]byte, syscall.CmsgSpace(4))
		n, k, _, _, err := conn.ReadMsgUnix(data, control)
		messages, _ := syscall.ParseSocketControlMessage(control[:k])
		for i := range messages {
			fds, _ := syscall.ParseUnixRights(&messages[i])
			for _, fd := range fds {
				if file != nil {
					unix.Close(fd)
					continue
				}
				unix.CloseOnExec(fd)
				file = os.NewFile(uintptr(fd), path)
			}
		}
		switch {
		case file != nil:
			return file, nil
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case err != nil || n == 0:
			return nil, errors.New("authopen passed no descriptor")
		}
	}
}
