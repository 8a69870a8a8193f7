package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"regexp"
	"slices"

	"imgtool/image"
	"imgtool/image/boardinfo"
	"imgtool/image/fault"
)

// Manifest says what an image is: what it was built from, where everything in
// it lies, and the hash of every byte that is written. It names inputs by role
// and hash, never by path.
type Manifest struct {
	Version int    `json:"imgtool"` // of this form: 1
	Board   string `json:"board"`
	Medium  string `json:"medium"`
	BuildID string `json:"build_id"`
	Time    int64  `json:"time"`           // seconds since 1970, of everything made
	Floor   int64  `json:"floor"`          // the smallest disk the board can use, in bytes
	Disk    int64  `json:"disk,omitempty"` // the one size the disk has, in bytes; 0: any from floor on
	Codec   string `json:"codec,omitempty"`
	Cmdline string `json:"cmdline,omitempty"`

	Info *boardinfo.Info `json:"board_info,omitempty"` // nil in manifests of older versions

	Inputs     []Input     `json:"inputs"`
	Partitions []Partition `json:"partitions"`
	image.Manifest
	Pieces []image.Entry `json:"pieces"` // what is written, in aligned runs of at most image.PieceSize

	// Private says that the image has secrets in it: its files are for their owner alone.
	Private bool `json:"-"`
}

// Input is what an image was built from.
type Input struct {
	Name   string `json:"name"` // its role, such as "u-boot.itb"
	SHA256 string `json:"sha256"`
	Origin string `json:"origin,omitempty"` // such as a package and its version
}

// Partition is a place on the disk. Length is 0 for one that takes what is left.
type Partition struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	GUID   string `json:"guid,omitempty"`
	Off    int64  `json:"offset"`
	Len    int64  `json:"length"`
	Late   bool   `json:"late,omitempty"` // made by the device on its first boot
	Slot   string `json:"slot,omitempty"` // a or b; empty: shared
	Boot   bool   `json:"boot,omitempty"` // the boot partition of its slot
	Format string `json:"format,omitempty"`
	Fill   bool   `json:"fill,omitempty"`  // takes what is left of the disk, whatever its size
	State  string `json:"state,omitempty"` // of a file system: the file that says it was provisioned
}

// plain is what goes into questions and onto disks as it is.
var plain = regexp.MustCompile(`^[A-Za-z0-9._+-]{0,64}$`)

// MaxManifest bounds what is read as a manifest: enough for 1 TiB of content.
const MaxManifest = 128 << 20

// Encode is the manifest as JSON.
func (m *Manifest) Encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(m); err != nil {
		panic("artifact: internal error: " + err.Error())
	}
	return b.Bytes()
}

// ParseManifest reads and checks a manifest.
func ParseManifest(b []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.Version != 1 {
		return nil, fmt.Errorf("manifest: version %d; only 1 is known", m.Version)
	}
	if m.Size <= 0 || m.Floor < 0 {
		return nil, fmt.Errorf("manifest: an image of %d bytes for a disk of %d", m.Size, m.Floor)
	}
	for _, text := range []string{m.Board, m.Medium, m.BuildID} {
		if !plain.MatchString(text) {
			return nil, fmt.Errorf("manifest: %.80q is no name: it must be at most 64 letters, digits and . _ + -", text)
		}
	}
	for _, list := range [][]image.Entry{m.Entries, m.Pieces} {
		at := int64(0)
		for _, e := range list {
			if e.Off < at || e.Len <= 0 || e.Len > m.Size-e.Off {
				return nil, fmt.Errorf("manifest: %q at %d, %d bytes long, is out of place in an image of %d bytes", e.Name, e.Off, e.Len, m.Size)
			}
			if b, err := hex.DecodeString(e.SHA256); err != nil || len(b) != sha256.Size {
				return nil, fmt.Errorf("manifest: %q is no SHA-256", e.SHA256)
			}
			at = e.Off + e.Len
		}
	}
	// What is written is what the extents are, rounded out: no less, no more.
	var extents []image.Extent
	for _, e := range m.Entries {
		extents = append(extents, image.Extent{Off: e.Off, Content: image.Zeros(e.Len)})
	}
	whole, err := image.New(m.Size, extents...)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	i := 0
	for s := range whole.Pieces(image.PieceSize) {
		if i == len(m.Pieces) || m.Pieces[i].Off != s.Off || m.Pieces[i].Len != s.Len {
			return nil, fmt.Errorf("manifest: the extents have content at byte %d, %d bytes long, the pieces have not", s.Off, s.Len)
		}
		i++
	}
	if i < len(m.Pieces) {
		return nil, fmt.Errorf("manifest: the piece at byte %d has no extent", m.Pieces[i].Off)
	}
	if len(m.Partitions) > 128 {
		return nil, fmt.Errorf("manifest: %d partitions; a table has 128", len(m.Partitions))
	}
	end := int64(0)
	for _, p := range m.Partitions {
		if p.Off < end || p.Len < 0 || p.Off+p.Len < 0 || p.Off%512 != 0 || p.Len%512 != 0 || !p.Late && p.Off+p.Len > m.Size {
			return nil, fmt.Errorf("manifest: partition %.80q at %d, %d bytes long, is out of place", p.Name, p.Off, p.Len)
		}
		end = p.Off + max(p.Len, 512)
	}
	if err := m.checkInfo(); err != nil {
		return nil, fmt.Errorf("manifest: board_info: %w", err)
	}
	return m, nil
}

// checkInfo checks what is recorded of the board.
func (m *Manifest) checkInfo() error {
	if m.Info == nil {
		return nil
	}
	s := m.Info.Seed
	if s != nil && !slices.ContainsFunc(m.Partitions, func(p Partition) bool { return p.Number == s.Number && p.Name == s.Partition }) {
		return fmt.Errorf("seed: the image has no partition %d with the name %.80q", s.Number, s.Partition)
	}
	return m.Info.Check()
}

// Bmap is the block map of the image in bmaptool's form, version 2.0.
func (m *Manifest) Bmap() []byte {
	type sizedRange struct {
		Sum    string `xml:"chksum,attr"`
		Blocks string `xml:",chardata"`
	}
	type bmap struct {
		XMLName  xml.Name     `xml:"bmap"`
		Version  string       `xml:"version,attr"`
		Size     int64        `xml:"ImageSize"`
		Block    int64        `xml:"BlockSize"`
		Blocks   int64        `xml:"BlocksCount"`
		Mapped   int64        `xml:"MappedBlocksCount"`
		Checksum string       `xml:"ChecksumType"`
		FileSum  string       `xml:"BmapFileChecksum"`
		Ranges   []sizedRange `xml:"BlockMap>Range"`
	}
	const block = image.Block
	blank := string(bytes.Repeat([]byte{'0'}, 64))
	doc := bmap{Version: "2.0", Size: m.Size, Block: block, Blocks: (m.Size + block - 1) / block, Checksum: "sha256", FileSum: blank}
	for _, p := range m.Pieces {
		first, last := p.Off/block, (p.Off+p.Len-1)/block
		doc.Mapped += last - first + 1
		blocks := fmt.Sprintf("%d-%d", first, last)
		if first == last {
			blocks = fmt.Sprint(first)
		}
		doc.Ranges = append(doc.Ranges, sizedRange{p.SHA256, blocks})
	}
	b, err := xml.MarshalIndent(doc, "", "  ")
	if err != nil {
		panic("artifact: internal error: " + err.Error())
	}
	b = append([]byte(xml.Header), append(b, '\n')...)
	// The file's own checksum is taken with zeros in its place.
	sum := sha256.Sum256(b)
	return bytes.Replace(b, []byte(blank), []byte(hex.EncodeToString(sum[:])), 1)
}

// CorruptError says that an image is not what it was when it was made.
type CorruptError struct{ Err error }

func (e *CorruptError) Error() string { return e.Err.Error() }
func (e *CorruptError) Unwrap() error { return e.Err }
func (e *CorruptError) Kind() string  { return fault.Corrupt }

func corrupt(format string, args ...any) error { return &CorruptError{fmt.Errorf(format, args...)} }

// checkPiece compares a piece with its entry in the manifest.
func checkPiece(p image.Entry, data []byte) error {
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != p.SHA256 {
		return corrupt("the piece at byte %d, %d bytes long, is corrupt: its SHA-256 is %x, the manifest says %s", p.Off, p.Len, sum, p.SHA256)
	}
	return nil
}
