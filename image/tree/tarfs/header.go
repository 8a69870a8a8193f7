package tarfs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"strconv"
	"strings"

	"imgtool/image"
)

const (
	maxMeta    = 64 << 20 // bytes of an extended header with the map of a sparse file
	maxRecords = 1 << 20  // bytes of the other records of an extended header, and of a long name
)

var errHeader = errors.New("invalid tar header")

// Values of the typeflag field.
const (
	tarRegular   = '0'
	tarOld       = 0 // a regular file, or a directory if its name ends in a slash
	tarLink      = '1'
	tarSymlink   = '2'
	tarChar      = '3'
	tarBlock     = '4'
	tarDir       = '5'
	tarFifo      = '6'
	tarCont      = '7' // as tarRegular
	tarPAX       = 'x'
	tarSolaris   = 'X' // as tarPAX
	tarGlobal    = 'g'
	tarLongName  = 'L'
	tarLongLink  = 'K'
	tarGNUSparse = 'S'
	tarDumpDir   = 'D' // a directory in an incremental archive of GNU tar
	tarMulti     = 'M'
	tarVolume    = 'V' // a volume label
)

type header struct {
	kind         byte
	name, link   string
	mode         int64
	uid, gid     int64
	mtime        int64
	major, minor int64
	stored       int64 // bytes of data in the archive
	data         int64 // offset of the data
	main         []byte
	records      map[string]string // of extended headers, the global ones included
	size         int64             // of the file
	version      string            // of its sparse map in PAX records; "" if it has none
}

type tarReader struct {
	r      io.ReaderAt
	size   int64
	at     int64             // offset of the next header, or of the end mark
	global map[string]string // records that apply to all later entries
	lost   []string          // records of global headers that are ignored
}

// next reads the headers of the next entry. The error is io.EOF at the end mark, errNoEnd
// if only the end mark is missing, and io.ErrUnexpectedEOF if the archive is truncated.
func (t *tarReader) next() (*header, error) {
	var name, link string
	var records map[string]string
	for {
		b, err := t.headerBlock()
		if err != nil {
			return nil, err
		}
		stored, err := number(b[124:136])
		if err != nil {
			return nil, err
		}
		kind, body := b[156], t.at+block
		switch kind {
		case tarPAX, tarSolaris, tarGlobal, tarLongName, tarLongLink:
			text, err := t.meta(body, stored, kind)
			if err != nil {
				return nil, err
			}
			t.at = body + padded(stored)
			switch kind {
			case tarLongName:
				name = cString(text)
			case tarLongLink:
				link = cString(text)
			default:
				all, err := parseRecords(text)
				if err != nil {
					return nil, err
				}
				if kind == tarGlobal {
					t.merge(all)
				} else {
					records = all
				}
			}
			continue
		case tarVolume:
			if stored > t.size-body {
				return nil, io.ErrUnexpectedEOF
			}
			t.at = body + padded(stored)
			continue
		}
		h, err := parseHeader(b)
		if err != nil {
			return nil, err
		}
		h.main, h.data, h.stored, h.size, h.records = b, body, stored, stored, t.effective(records)
		if err := h.apply(); err != nil {
			return nil, err
		}
		if name != "" {
			h.name = name
		}
		if link != "" {
			h.link = link
		}
		if h.kind == tarOld {
			h.kind = tarRegular
			if strings.HasSuffix(h.name, "/") {
				h.kind = tarDir
			}
		}
		switch h.kind {
		case tarLink, tarSymlink, tarChar, tarBlock, tarDir, tarFifo:
			h.stored = 0 // such entries have no data
		}
		t.at = body + padded(min(h.stored, t.size)) // the caller checks that all data exist
		return h, h.findSparse()
	}
}

func (t *tarReader) headerBlock() ([]byte, error) {
	b := make([]byte, block)
	n, err := t.r.ReadAt(b[:min(block, max(0, t.size-t.at))], t.at)
	switch {
	case n < block && err != nil && err != io.EOF:
		return nil, err
	case n < block && image.IsZero(b[:n]):
		return nil, errNoEnd
	case n < block:
		return nil, io.ErrUnexpectedEOF
	case image.IsZero(b):
		return nil, io.EOF
	case !IsTar(b):
		return nil, errHeader
	}
	return b, nil
}

// errNoEnd is the error for an archive that is complete but for its end mark.
var errNoEnd = errors.New("the end of the archive is not marked")

func (t *tarReader) meta(at, size int64, kind byte) ([]byte, error) {
	if size > maxMeta {
		return nil, fmt.Errorf("an extended header of %d bytes is longer than %d", size, int64(maxMeta))
	}
	if (kind == tarLongName || kind == tarLongLink) && size > maxRecords {
		return nil, fmt.Errorf("a name of %d bytes is too long", size)
	}
	if size > t.size-at {
		return nil, io.ErrUnexpectedEOF
	}
	b := make([]byte, size)
	if _, err := image.ReadFull(t.r, b, at); err != nil {
		return nil, err
	}
	return b, nil
}

// merge takes the records of a global header.
func (t *tarReader) merge(records map[string]string) {
	if t.global == nil {
		t.global = map[string]string{}
	}
	for k, v := range records {
		switch {
		case k == "path" || k == "linkpath" || k == "size" || strings.HasPrefix(k, "GNU.sparse."):
			// These make no sense for all entries at once.
			t.lost = append(t.lost, k)
		case v == "":
			delete(t.global, k)
		default:
			t.global[k] = v
		}
	}
}

func parseHeader(b []byte) (*header, error) {
	h := &header{kind: b[156], name: cString(b[:100]), link: cString(b[157:257])}
	fields := []struct {
		from, to int
		into     *int64
	}{{100, 108, &h.mode}, {108, 116, &h.uid}, {116, 124, &h.gid}, {136, 148, &h.mtime}, {329, 337, &h.major}, {337, 345, &h.minor}}
	magic := string(b[257:265])
	posix, gnu := magic[:6] == "ustar\x00", magic == "ustar  \x00"
	if !posix && !gnu {
		fields = fields[:4]
	}
	for _, f := range fields {
		var err error
		if *f.into, err = signed(b[f.from:f.to]); err != nil {
			return nil, err
		}
	}
	prefix := ""
	switch {
	case posix && string(b[508:512]) == "tar\x00": // star
		prefix = cString(b[345:476])
	case posix:
		prefix = cString(b[345:500])
	case gnu:
		// Go before 1.8 wrote a prefix where GNU tar has two times.
		_, err1 := signed(b[345:357])
		_, err2 := signed(b[357:369])
		if s := cString(b[345:500]); (err1 != nil || err2 != nil) && !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 }) {
			prefix = s
		}
	}
	if prefix != "" {
		h.name = prefix + "/" + h.name
	}
	return h, nil
}

// effective returns the records of an entry: its own ones, and global ones with other keys.
func (t *tarReader) effective(own map[string]string) map[string]string {
	if len(t.global) == 0 {
		return own
	}
	all := maps.Clone(t.global)
	maps.Copy(all, own)
	return all
}

// apply applies the records to the header. Empty values are ignored.
func (h *header) apply() error {
	for k, v := range h.records {
		if v == "" {
			continue
		}
		var err error
		switch k {
		case "path":
			h.name = v
		case "linkpath":
			h.link = v
		case "uid":
			h.uid, err = strconv.ParseInt(v, 10, 64)
		case "gid":
			h.gid, err = strconv.ParseInt(v, 10, 64)
		case "mtime":
			h.mtime, err = parseTime(v)
		case "size":
			h.stored, err = strconv.ParseInt(v, 10, 64)
			h.size = h.stored
		}
		if err != nil || h.stored < 0 {
			return errHeader
		}
	}
	return nil
}

// findSparse sets the name and size of a sparse file.
func (h *header) findSparse() error {
	if h.kind == tarGNUSparse {
		if string(h.main[257:265]) != "ustar  \x00" {
			return errHeader // star has the same kind and another layout
		}
		var err error
		h.size, err = number(h.main[483:495])
		return err
	}
	major, minor := h.records["GNU.sparse.major"], h.records["GNU.sparse.minor"]
	switch {
	case major != "" || minor != "":
		h.version = major + "." + minor
	case h.records["GNU.sparse.map"] != "":
		h.version = "0.1"
	default:
		return nil
	}
	if name := h.records["GNU.sparse.name"]; name != "" {
		h.name = name
	}
	if text := cmp.Or(h.records["GNU.sparse.size"], h.records["GNU.sparse.realsize"]); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return errHeader
		}
		h.size = n
	}
	return nil
}

func (h *header) isSparse() bool { return h.kind == tarGNUSparse || h.version != "" }

// parseRecords parses the records of a pax header, "LENGTH KEY=VALUE\n" each. The map of a
// sparse file of version 0.0, many records with two keys, becomes one record as in 0.1.
func parseRecords(text []byte) (map[string]string, error) {
	records := map[string]string{}
	var sparse []byte
	pairs, total := 0, 0
	for len(text) > 0 {
		digits, _, ok := bytes.Cut(text[:min(len(text), 20)], []byte(" "))
		n, err := strconv.Atoi(string(digits))
		if !ok || err != nil || n <= len(digits)+1 || n > len(text) || text[n-1] != '\n' {
			return nil, errHeader
		}
		key, value, ok := bytes.Cut(text[len(digits)+1:n-1], []byte("="))
		text = text[n:]
		if !ok || len(key) == 0 || bytes.IndexByte(key, 0) >= 0 {
			return nil, errHeader
		}
		switch k := string(key); k {
		case "GNU.sparse.offset", "GNU.sparse.numbytes":
			if (pairs%2 == 0) != (k == "GNU.sparse.offset") || bytes.IndexByte(value, ',') >= 0 {
				return nil, errHeader
			}
			if pairs++; pairs > 1 {
				sparse = append(sparse, ',')
			}
			sparse = append(sparse, value...)
		case "path", "linkpath":
			if bytes.IndexByte(value, 0) >= 0 {
				return nil, errHeader
			}
			fallthrough
		default:
			if k != "GNU.sparse.map" {
				if total += len(key) + len(value); total > maxRecords {
					return nil, fmt.Errorf("an extended header with more than %d bytes of records", maxRecords)
				}
			}
			records[k] = string(value)
		}
	}
	if pairs > 0 {
		records["GNU.sparse.map"] = string(sparse)
	}
	return records, nil
}

// parseTime parses seconds with an optional sign and fraction, and rounds down.
func parseTime(text string) (int64, error) {
	whole, part, _ := strings.Cut(text, ".")
	if strings.Trim(part, "0123456789") != "" {
		return 0, errHeader
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return 0, errHeader
	}
	if strings.HasPrefix(whole, "-") && strings.Trim(part, "0") != "" {
		n = max(n, math.MinInt64+1) - 1
	}
	return n, nil
}

// cString returns b up to its first zero byte.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// signed parses a numeric field: octal digits, or if the first bit is set (base-256) a
// big-endian number in two's complement.
func signed(field []byte) (int64, error) {
	if field[0]&0x80 != 0 {
		invert := byte(0)
		if field[0]&0x40 != 0 {
			invert = 0xff
		}
		var x uint64
		for i, c := range field {
			if c ^= invert; i == 0 {
				c &= 0x7f
			}
			if x>>56 > 0 {
				return 0, errHeader
			}
			x = x<<8 | uint64(c)
		}
		if x>>63 > 0 {
			return 0, errHeader
		}
		if invert != 0 {
			return ^int64(x), nil
		}
		return int64(x), nil
	}
	digits := cString(bytes.Trim(field, " \x00"))
	if digits == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(strings.TrimRight(digits, " "), 8, 63)
	if err != nil {
		return 0, errHeader
	}
	return int64(n), nil
}

// number parses a numeric field that must not be negative.
func number(field []byte) (int64, error) {
	n, err := signed(field)
	if err != nil || n < 0 {
		return 0, errHeader
	}
	return n, nil
}
