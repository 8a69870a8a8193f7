// Package foreign names files that are not disk images.
package foreign

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"strings"
	"unicode/utf8"

	"imgtool/image/artifact"
	"imgtool/image/compress"
	"imgtool/image/fault"
)

const (
	convert  = "convert it with qemu-img convert -O raw"
	partOnly = "it has no partition table; write it to a partition with dd"
	whole    = "give the image of the whole disk"
)

// files has the magic numbers of other files.
var files = []struct {
	off          int
	magic        string
	what, advice string
}{
	{0, "7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it with 7z x, and give the image in it"},
	{0, "Rar!\x1a\x07", "a RAR archive", "unpack it with unrar x, and give the image in it"},
	{0, "PK\x03\x04", "a zip archive", "unpack it with unzip, and give the image in it"},
	{0, "PK\x05\x06", "an empty zip archive", "give an image"},
	{257, "ustar", "a tar archive", "unpack it with tar xf, and give the image in it"},
	{0, "LZIP\x01", "an lzip file", "unpack it with lzip -d"},
	{0, "\x89LZO\x00", "an lzop file", "unpack it with lzop -d"},
	{0, "\x1f\x9d", "a file of compress (.Z)", "unpack it with gzip -d"},
	{0, "\x3a\xff\x26\xed", "an Android sparse image", "unpack it, so that the sparse image can be read from a file"},
	{0, "QFI\xfb", "a QCOW2 image", convert},
	{0, "KDMV", "a VMDK image", convert},
	{0, "# Disk DescriptorFile", "a VMDK descriptor", convert},
	{0, "conectix", "a VHD image", convert},
	{0, "vhdxfile", "a VHDX image", convert},
	{0x40, "\x7f\x10\xda\xbe", "a VDI image", convert},
	{0x8001, "CD001", "an ISO image of a CD", "it has no partition table, and boots from CDs alone"},
	{0, "!<arch>\n", "a Debian package or library (ar)", whole},
	{0, "\xed\xab\xee\xdb", "an RPM package", whole},
	{0, "\x7fELF", "a program (ELF)", whole},
	{0, "MZ", "a program (EFI or Windows)", whole},
	{0, "%PDF-", "a PDF", whole},
	{0, "version https://git-lfs", "a pointer of Git LFS", "fetch the image with git lfs pull"},
	{0, "\x27\x05\x19\x56", "an image of U-Boot (uImage)", whole},
	{0, "\xd0\x0d\xfe\xed", "a device tree or FIT image", whole},
	{0, "UBI#", "an image of UBI for raw flash", whole},
	{0, "hsqs", "a squashfs file system", partOnly},
	{1024, "\xe2\xe1\xf5\xe0", "an erofs file system", partOnly},
	{0, "XFSB", "an XFS file system", partOnly},
	{1080, "\x53\xef", "an ext4 file system", partOnly},
	{1024, "\x10\x20\xf5\xf2", "an f2fs file system", partOnly},
	{0x10040, "_BHRfS_M", "a btrfs file system", partOnly},
	{4086, "SWAPSPACE2", "a swap partition", partOnly},
}

// Check returns an error if head, the first bytes of a file after decompression
// from the format f, begins a known kind of file that is not a disk image. A file with an MBR
// is always taken for a disk image.
func Check(f artifact.Format, head []byte) error {
	if len(head) >= 512 && head[510] == 0x55 && head[511] == 0xAA {
		return nil
	}
	packed := ""
	if f != artifact.Raw {
		packed = fmt.Sprintf(", compressed with %s", f)
	}
	name := func(what, advice string) error {
		return fault.New(fault.Input, "it is %s%s, not a disk image: %s", what, packed, advice)
	}
	for _, k := range files {
		if len(head) >= k.off && bytes.HasPrefix(head[k.off:], []byte(k.magic)) {
			return name(k.what, k.advice)
		}
	}
	if packed := compress.Detect(head); packed != compress.None {
		article := "a"
		if packed == compress.XZ || packed == compress.LZ4 {
			article = "an"
		}
		return name(fmt.Sprintf("%s %s file", article, packed), fmt.Sprintf("unpack it with %s -d", packed))
	}
	start := strings.ToLower(string(bytes.TrimLeft(bytes.TrimPrefix(head[:min(len(head), 1024)], []byte("\xef\xbb\xbf")), " \t\r\n")))
	switch {
	case isLZMA(head):
		return name("an .lzma file", "the format has no checksum; unpack it with xz -d")
	case strings.HasPrefix(start, "<!doctype html"), strings.HasPrefix(start, "<html"), strings.HasPrefix(start, "<?xml") && strings.Contains(start, "<html"):
		return name("a web page", "the server did not send the image; download it again")
	case strings.HasPrefix(start, "<") && strings.Contains(start, "<bmap"):
		return name("a block map (.bmap)", "give the image that it belongs to")
	case isText(head):
		return name(fmt.Sprintf("text that begins with %.40q", strings.TrimSpace(string(head[:min(len(head), 40)]))), "give an image")
	}
	return nil
}

// isLZMA reports whether b begins with an .lzma header: properties, a dictionary of 2^n or
// 2^n+2^(n-1) bytes, and a size that is unknown (-1) or below 2^40.
func isLZMA(b []byte) bool {
	if len(b) < 14 || b[0] >= 9*5*5 || b[13] != 0 {
		return false
	}
	dict, size := binary.LittleEndian.Uint32(b[1:]), binary.LittleEndian.Uint64(b[5:])
	high := dict >> bits.TrailingZeros32(dict)
	return dict >= 4096 && dict < 1<<30 && (high == 1 || high == 3) && (size == math.MaxUint64 || size < 1<<40)
}

func isText(b []byte) bool {
	b = b[:min(len(b), 512)]
	if len(b) > 500 {
		b = b[:len(b)-utf8.UTFMax] // the last character may be cut
	}
	printable := func(r rune) bool {
		return r != utf8.RuneError && (r >= ' ' && r != 0x7f || r == '\n' || r == '\r' || r == '\t')
	}
	return len(b) > 0 && strings.IndexFunc(string(b), func(r rune) bool { return !printable(r) }) < 0
}
