package factory

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"

	"imgtool/image/hostfile"
	"imgtool/image/progress"
)

// maxKey is the largest size of a key file; keys are much smaller.
const maxKey = 64 << 10

// readKey reads a key of a kind. Errors have nothing of its content.
func readKey(dir, name, kind string, r progress.Reporter) ([]byte, error) {
	if strings.ContainsAny(name, "\n") || strings.Contains(name, "-----BEGIN") {
		return nil, errors.New("it is a key and not the name of a file: put the key into a file, and its name here")
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	f, err := hostfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.Size() == 0 || info.Size() > maxKey:
		return nil, fmt.Errorf("%s has %d bytes; a key has 1 to %d", path, info.Size(), maxKey)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return nil, err
	}
	got := kindOfKey(data)
	if got == "private-key" && info.Mode().Perm()&0o077 != 0 {
		r.Warnf("%s can be read by others: chmod 600 it", path)
	}
	switch {
	case got == kind:
		return data, nil
	case got == "":
		return nil, fmt.Errorf("%s has no complete %s", path, spaced(kind))
	}
	return nil, fmt.Errorf("%s is a %s, and a %s is needed", path, spaced(got), spaced(kind))
}

func spaced(kind string) string { return strings.ReplaceAll(kind, "-", " ") }

var sshKeyType = regexp.MustCompile(`^(?:ssh|ecdsa|sk)-[a-z0-9@.-]{1,60}$`)

// kindOfKey returns a kind of [boardinfo.KeyKinds], "private-key-with-a-passphrase", or "" if the
// data are not a complete key in PEM or on a line of OpenSSH.
func kindOfKey(data []byte) string {
	if block, rest := pem.Decode(data); block != nil {
		switch {
		case len(bytes.TrimSpace(rest)) > 0 || len(block.Bytes) == 0:
			return ""
		case strings.HasSuffix(block.Type, "PUBLIC KEY"):
			return "public-key"
		case !strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return ""
		case strings.Contains(block.Type, "ENCRYPTED") || block.Headers["Proc-Type"] != "" ||
			// openssh-portable, PROTOCOL.key: the magic and the name of the cipher
			block.Type == "OPENSSH PRIVATE KEY" && !bytes.HasPrefix(block.Bytes, []byte("openssh-key-v1\x00\x00\x00\x00\x04none")):
			return "private-key-with-a-passphrase"
		}
		return "private-key"
	}
	// sshd(8), AUTHORIZED_KEYS FILE FORMAT: the type, and a blob that begins with it (RFC 4253, 6.6).
	fields := strings.Fields(string(data))
	if len(fields) < 2 || !sshKeyType.MatchString(fields[0]) || strings.Count(strings.TrimSpace(string(data)), "\n") > 0 {
		return ""
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil || len(blob) < 4+len(fields[0]) || binary.BigEndian.Uint32(blob) != uint32(len(fields[0])) || string(blob[4:4+len(fields[0])]) != fields[0] {
		return ""
	}
	if strings.Contains(fields[0], "-cert-v0") {
		return "certificate"
	}
	return "public-key"
}
