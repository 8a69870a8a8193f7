package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/layouts"
)

// unitData is what makes a unit itself. What is in its keys goes to disks and
// nowhere else: no message, receipt, log or scratch file has any of it.
type unitData struct {
	VSN    string
	NodeID string // 16 upper-case hexadecimal digits, or nothing: the unit finds it out
	files  map[string]compose.File
}

var (
	goodVSN    = regexp.MustCompile(`^[A-Z][A-Z0-9-]{0,31}$`)
	goodNodeID = regexp.MustCompile(`^[0-9A-F]{16}$`)
)

// maxKey is far more than any key has.
const maxKey = 64 << 10

// readUnit reads a unit's file and its keys, and refuses what a unit could not use.
func readUnit(file string, board *boards.Board, u *ui) (*unitData, error) {
	if len(board.Unit.Files) == 0 {
		return nil, fault.New(fault.Usage, "%s has nothing of a unit's own: leave out --unit", board.Name)
	}
	text, err := hostfile.ReadStream(file, hostfile.Text)
	if err != nil {
		return nil, fmt.Errorf("unit: %w", err)
	}
	var doc struct {
		VSN    string            `toml:"vsn"`
		MAC    string            `toml:"wan0-mac"`
		NodeID string            `toml:"node-id"`
		Keys   map[string]string `toml:"keys"`
	}
	if err := layouts.Decode(file, text, &doc); err != nil {
		return nil, err
	}
	fault := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w", file, fmt.Errorf(format, args...))
	}
	d := &unitData{VSN: doc.VSN, NodeID: doc.NodeID, files: map[string]compose.File{}}
	switch {
	case doc.VSN == "":
		return nil, fault("vsn is missing: write it as vsn = \"W123\"")
	case !goodVSN.MatchString(doc.VSN):
		return nil, fault("vsn is %q; it must be 1 to 32 upper-case letters, digits and -, starting with a letter, such as W123", doc.VSN)
	case doc.MAC != "" && doc.NodeID != "":
		return nil, fault("wan0-mac and node-id say the same: leave one of them out")
	case doc.NodeID != "" && !goodNodeID.MatchString(doc.NodeID):
		return nil, fault("node-id is %q; it must be 16 digits of 0 to 9 and A to F, such as 000048B02D012345", doc.NodeID)
	case doc.MAC != "":
		mac, err := net.ParseMAC(doc.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return nil, fault("wan0-mac is %q; it must be the address of one card, such as 48:b0:2d:01:23:45", doc.MAC)
		}
		if want := macPrefix(board); !strings.HasPrefix(mac.String(), want) {
			u.warn(fmt.Sprintf("%s: wan0-mac is %s, and the wan0 of %s starts with %s", file, mac, board.Name, want))
		}
		d.NodeID = "0000" + strings.ToUpper(hex.EncodeToString(mac))
	}
	var keys []string
	for _, f := range board.Unit.Files {
		switch {
		case f.Text == "":
			keys = append(keys, f.Name)
			if doc.Keys[f.Name] == "" {
				continue
			}
			data, err := readUnitKey(filepath.Dir(file), doc.Keys[f.Name], f.Kind, u)
			if err != nil {
				return nil, fault("%s: %w", f.Name, err)
			}
			d.files[f.Name] = compose.File{Path: f.Path, Mode: 0o600, Data: data}
		case strings.Contains(f.Text, "@NODE_ID@") && d.NodeID == "":
		default:
			text := strings.NewReplacer("@VSN@", d.VSN, "@NODE_ID@", d.NodeID).Replace(f.Text)
			d.files[f.Name] = compose.File{Path: f.Path, Mode: 0o644, Data: []byte(text)}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(doc.Keys)) {
		if len(keys) == 0 {
			return nil, fault("[keys] has %q, and a unit of %s has no keys of its own: leave [keys] out", name, board.Name)
		}
		if !slices.Contains(keys, name) {
			return nil, fault("[keys] has %q, which %s does not know; it knows %s", name, board.Name, strings.Join(keys, ", "))
		}
	}
	for _, f := range board.Unit.Files {
		for _, need := range f.Needs {
			if _, ok := d.files[f.Name]; ok && d.files[need].Data == nil {
				return nil, fault("there is %s without %s, and one is of no use without the other", f.Name, need)
			}
		}
		for _, other := range f.NotWith {
			if d.files[f.Name].Data != nil && d.files[other].Data != nil {
				u.warn(fmt.Sprintf("%s: a unit that has %s does not use %s, and never deletes it: leave it out", file, other, f.Name))
			}
		}
	}
	return d, nil
}

// macPrefix is what the addresses of a board's network interfaces begin with.
func macPrefix(board *boards.Board) string {
	for _, v := range board.Unit.Variables {
		if v.MAC != nil {
			return v.MAC.Prefix
		}
	}
	return ""
}

// readUnitKey reads a key and looks whether it is one of its kind. Its errors say
// nothing of what is in it.
func readUnitKey(dir, name, kind string, u *ui) ([]byte, error) {
	if strings.ContainsAny(name, "\n") || strings.Contains(name, "-----BEGIN") {
		return nil, errors.New("it is a key and not the name of a file: put the key into a file, and its name here")
	}
	at := name
	if !filepath.IsAbs(at) {
		at = filepath.Join(dir, at)
	}
	f, err := hostfile.Open(at)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.Size() == 0 || info.Size() > maxKey:
		return nil, fmt.Errorf("%s has %d bytes; a key has 1 to %d", at, info.Size(), maxKey)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return nil, err
	}
	got := kindOfKey(data)
	if got == "private-key" && info.Mode().Perm()&0o077 != 0 {
		u.warn(fmt.Sprintf("%s can be read by others: chmod 600 it", at))
	}
	switch {
	case got == kind:
		return data, nil
	case got == "":
		return nil, fmt.Errorf("%s holds no %s that is whole", at, spaced(kind))
	}
	return nil, fmt.Errorf("%s holds a %s, and a %s is wanted", at, spaced(got), spaced(kind))
}

func spaced(kind string) string { return strings.ReplaceAll(kind, "-", " ") }

var sshKeyType = regexp.MustCompile(`^(?:ssh|ecdsa|sk)-[a-z0-9@.-]{1,60}$`)

// kindOfKey is one of boards.KeyKinds or what a key is instead, or nothing.
func kindOfKey(data []byte) string {
	if block, rest := pem.Decode(data); block != nil {
		switch whole := len(bytes.TrimSpace(rest)) == 0 && len(block.Bytes) > 0; {
		case !whole:
		case strings.HasSuffix(block.Type, "PRIVATE KEY") && (strings.Contains(block.Type, "ENCRYPTED") || block.Headers["Proc-Type"] != "" ||
			block.Type == "OPENSSH PRIVATE KEY" && !bytes.HasPrefix(block.Bytes, []byte("openssh-key-v1\x00\x00\x00\x00\x04none"))):
			return "private-key-with-a-passphrase"
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return "private-key"
		case strings.HasSuffix(block.Type, "PUBLIC KEY"):
			return "public-key"
		}
		return ""
	}
	// A line of OpenSSH: the type, and the same inside.
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

// additions are the files that go to a medium, by partition, and their names.
func (d *unitData) additions(board *boards.Board, medium string, flags map[string]bool) (more map[string][]compose.File, names []string) {
	more = map[string][]compose.File{}
	if d == nil {
		return more, nil
	}
	for _, place := range board.Unit.Places {
		of, part, _ := strings.Cut(place.Partition, "/")
		if of != medium || place.Only != "" && !flags[place.Only] {
			continue
		}
		for _, name := range place.Files {
			if a, ok := d.files[name]; ok {
				a.Path = path.Join("/", place.Directory, a.Path)
				more[part] = append(more[part], a)
				names = append(names, name)
			}
		}
	}
	return more, names
}
