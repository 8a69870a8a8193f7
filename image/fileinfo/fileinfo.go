// Package fileinfo formats the metadata of files for users, as ls(1), getfattr(1) and
// getcap(8) do.
package fileinfo

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"imgtool/image/tree"
)

// types are the names of inode types and their letters in ls.
var types = map[uint32]struct {
	name   string
	letter byte
}{
	tree.Regular: {"file", '-'}, tree.Dir: {"directory", 'd'}, tree.Symlink: {"link", 'l'}, tree.CharDev: {"character device", 'c'},
	tree.BlockDev: {"block device", 'b'}, tree.Fifo: {"fifo", 'p'}, tree.Socket: {"socket", 's'},
}

// Type returns the name of an inode's type, such as "directory".
func Type(n *tree.Inode) string { return types[n.Type()].name }

// Octal returns the permission bits of a mode, such as "0755".
func Octal(mode uint32) string { return fmt.Sprintf("%04o", mode&0o7777) }

// Owner returns the numeric user and group, such as "0:0".
func Owner(n *tree.Inode) string { return fmt.Sprintf("%d:%d", n.UID, n.GID) }

// Device returns the numbers of a device, such as "5,1".
func Device(n *tree.Inode) string { return fmt.Sprintf("%d,%d", n.Major, n.Minor) }

// Time returns seconds since 1970 as date and time in UTC.
func Time(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.DateTime) }

// Long returns a line as ls -l prints it, with numeric owners and the time in UTC.
func Long(name string, n *tree.Inode) string {
	size := strconv.FormatInt(n.Size(), 10)
	switch n.Type() {
	case tree.CharDev, tree.BlockDev:
		size = Device(n)
	case tree.Symlink:
		size = strconv.Itoa(len(n.Target))
	}
	line := fmt.Sprintf("%s %9s %11s %s %s", mode(n.Mode), Owner(n), size, Time(n.ModTime), Quote(name))
	if n.Type() == tree.Symlink {
		line += " -> " + Quote(n.Target)
	}
	return line
}

// Short describes an inode in a few words, such as "file of 5 bytes, 0644 0:0".
func Short(n *tree.Inode) string {
	text := Type(n)
	switch n.Type() {
	case tree.Regular:
		text += fmt.Sprintf(" of %d bytes", n.Size())
	case tree.Symlink:
		return text + " to " + Quote(n.Target)
	case tree.CharDev, tree.BlockDev:
		text += " " + Device(n)
	}
	return text + fmt.Sprintf(", %s %s", Octal(n.Mode), Owner(n))
}

// mode returns type and permissions as ls prints them, such as "-rwsr-xr-x".
func mode(mode uint32) string {
	b := []byte{types[mode&tree.TypeMask].letter}
	for i := 8; i >= 0; i-- {
		c := byte('-')
		if mode>>i&1 != 0 {
			c = "xwr"[i%3]
		}
		b = append(b, c)
	}
	for _, special := range []struct {
		bit   uint32
		at    int
		plain byte
	}{{0o4000, 3, 'S'}, {0o2000, 6, 'S'}, {0o1000, 9, 'T'}} {
		if mode&special.bit != 0 {
			c := special.plain
			if b[special.at] == 'x' {
				c += 'a' - 'A'
			}
			b[special.at] = c
		}
	}
	return string(b)
}

// Quote returns a name unchanged, or as a Go string literal if it could be mistaken for
// something else: if it is empty, begins with a quote, has spaces at its ends, or contains
// an arrow or characters that are not printable.
func Quote(name string) string {
	if printable(name) && name != "" && name[0] != '"' && !strings.Contains(name, " -> ") && name == strings.TrimSpace(name) {
		return name
	}
	return strconv.Quote(name)
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Xattr returns the value of an extended attribute: capabilities by name, text in quotes,
// and other values in hexadecimal.
func Xattr(x tree.Xattr) string {
	if text, ok := capabilities(x); ok {
		return text
	}
	// Many programs store C strings, with their NUL.
	if text := strings.TrimSuffix(x.Value, "\x00"); printable(text) {
		return strconv.Quote(x.Value)
	}
	return "0x" + hex.EncodeToString([]byte(x.Value))
}

// FATSerial returns the serial number of a FAT as other tools print it, such as
// "12AB-34CD".
func FATSerial(n uint32) string { return fmt.Sprintf("%04X-%04X", n>>16, n&0xffff) }
