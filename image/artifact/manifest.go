package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"imgtool/image"
	"imgtool/image/boardinfo"
	"imgtool/image/fault"
)

// Manifest describes an image: its inputs, its partitions, the offsets of its content, and
// the hashes of all bytes that are written. Inputs are named by role and hash, never by path.
type Manifest struct {
	Version int    `json:"imgtool"` // of the manifest: 1
	Board   string `json:"board"`
	Medium  string `json:"medium"`
	BuildID string `json:"build_id"`
	Time    int64  `json:"time"`           // seconds since 1970, of all files that the build made
	Floor   int64  `json:"floor"`          // size of the smallest disk for the board, in bytes
	Disk    int64  `json:"disk,omitempty"` // the only disk size for the board, in bytes; 0 is any from Floor on
	Codec   string `json:"codec,omitempty"`
	Cmdline string `json:"cmdline,omitempty"`

	Info *boardinfo.Info `json:"board_info,omitempty"` // nil in manifests of older versions

	Inputs     []Input     `json:"inputs"`
	Partitions []Partition `json:"partitions"`
	image.Manifest
	Pieces []image.Entry `json:"pieces"` // the ranges that are written, aligned, at most image.PieceSize long

	ImageSHA256 string        `json:"image_sha256,omitempty"` // of all bytes of the image, holes as zeros, if it was asked for
	Documents   []DocumentSum `json:"documents,omitempty"`    // attached to the image, in order of their names

	// Private says that the image contains secrets: only the owner can read its files.
	Private bool `json:"-"`

	text []byte // what it was parsed from
}

// Input is a file or tree that an image was built from.
type Input struct {
	Name   string `json:"name"` // its role, such as "u-boot.itb"
	SHA256 string `json:"sha256"`
	Origin string `json:"origin,omitempty"` // such as "deb u-boot-rockchip 2023.01"
}

// Verity is the hash tree of dm-verity after the data of a partition, as veritysetup(8) makes it
// with a superblock.
type Verity struct {
	RootHash   string `json:"root_hash"`   // SHA-256, hexadecimal
	HashOffset int64  `json:"hash_offset"` // of the superblock in the partition: the size of the data in bytes
}

// DocumentSum has the checksum of a document that is attached to an image.
type DocumentSum struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
}

// unknownSHA256 is in the place of a SHA-256 that is not known yet.
var unknownSHA256 = strings.Repeat("0", 2*sha256.Size)

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Content returns a SHA-256 of the image that takes no reading of it: of the lines "SIZE" and,
// for each piece, "OFFSET LENGTH SHA256". It covers all bytes that are written.
func (m *Manifest) Content() string {
	h := sha256.New()
	fmt.Fprintln(h, m.Size)
	for _, p := range m.Pieces {
		fmt.Fprintln(h, p.Off, p.Len, p.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Partition is a partition of the disk. Len is 0 if it takes the rest of the disk.
type Partition struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	GUID   string `json:"guid,omitempty"`
	Off    int64  `json:"offset"`
	Len    int64  `json:"length"`
	Late   bool   `json:"late,omitempty"` // the device creates it on its first boot
	Slot   string `json:"slot,omitempty"` // a or b; empty: shared
	Boot   bool   `json:"boot,omitempty"` // the boot partition of its slot

	Verity *Verity `json:"verity,omitempty"` // its hash tree; nil if it has none
	Format string  `json:"format,omitempty"`
	Fill   bool    `json:"fill,omitempty"`  // takes the rest of the disk
	State  string  `json:"state,omitempty"` // path of the provisioning state file in its file system
}

// safeName matches names that are shown and written to disks without quoting.
var safeName = regexp.MustCompile(`^[A-Za-z0-9._+-]{0,64}$`)

// MaxManifest is the size of the largest manifest that is read, in bytes: enough for 1 TiB
// of content.
const MaxManifest = 128 << 20

// Encode returns the manifest as JSON.
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

// Text returns the bytes that a signature of the manifest signs: those it was parsed from, or
// [Manifest.Encode] of a manifest that was made.
func (m *Manifest) Text() []byte {
	if m.text != nil {
		return m.text
	}
	return m.Encode()
}

// ParseManifest parses and checks a manifest.
func ParseManifest(b []byte) (*Manifest, error) {
	m := &Manifest{text: b}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.Version != 1 {
		return nil, fmt.Errorf("manifest: version %d is not supported, only 1", m.Version)
	}
	if m.Size <= 0 || m.Floor < 0 {
		return nil, fmt.Errorf("manifest: an image of %d bytes for disks of %d bytes", m.Size, m.Floor)
	}
	for _, text := range []string{m.Board, m.Medium, m.BuildID} {
		if !safeName.MatchString(text) {
			return nil, fmt.Errorf("manifest: invalid name %.80q: it must be at most 64 letters, digits and . _ + -", text)
		}
	}
	for _, list := range [][]image.Entry{m.Entries, m.Pieces} {
		at := int64(0)
		for _, e := range list {
			if e.Off < at || e.Len <= 0 || e.Len > m.Size-e.Off {
				return nil, fmt.Errorf("manifest: %q, %d bytes at byte %d, is out of order or outside of the image of %d bytes", e.Name, e.Len, e.Off, m.Size)
			}
			if err := checkSHA256(e.SHA256); err != nil {
				return nil, err
			}
			at = e.Off + e.Len
		}
	}
	if err := m.checkDocuments(); err != nil {
		return nil, err
	}
	// The pieces are the extents rounded out to blocks.
	shape, err := m.shape()
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	i := 0
	for s := range shape.Pieces(image.PieceSize) {
		if i == len(m.Pieces) || m.Pieces[i].Off != s.Off || m.Pieces[i].Len != s.Len {
			return nil, fmt.Errorf("manifest: the extents have %d bytes of content at byte %d, the pieces do not", s.Len, s.Off)
		}
		i++
	}
	if i < len(m.Pieces) {
		return nil, fmt.Errorf("manifest: the piece at byte %d is outside of all extents", m.Pieces[i].Off)
	}
	if len(m.Partitions) > 128 {
		return nil, fmt.Errorf("manifest: %d partitions, the limit is 128", len(m.Partitions))
	}
	end := int64(0)
	for _, p := range m.Partitions {
		if p.Off < end || p.Len < 0 || p.Off+p.Len < 0 || p.Off%512 != 0 || p.Len%512 != 0 || !p.Late && p.Off+p.Len > m.Size {
			return nil, fmt.Errorf("manifest: partition %.80q, %d bytes at byte %d, is misaligned, overlaps another or is outside of the image", p.Name, p.Len, p.Off)
		}
		end = p.Off + max(p.Len, 512)
	}
	if err := m.checkInfo(); err != nil {
		return nil, fmt.Errorf("manifest: board_info: %w", err)
	}
	return m, nil
}

func checkSHA256(text string) error {
	if b, err := hex.DecodeString(text); err != nil || len(b) != sha256.Size {
		return fmt.Errorf("manifest: %.80q is not a SHA-256", text)
	}
	return nil
}

func (m *Manifest) checkDocuments() error {
	if m.ImageSHA256 != "" {
		if err := checkSHA256(m.ImageSHA256); err != nil {
			return err
		}
	}
	for i, d := range m.Documents {
		if !attachmentName.MatchString(d.Name) || i > 0 && m.Documents[i-1].Name >= d.Name {
			return fmt.Errorf("manifest: the document %.80q has an invalid name, or is out of order", d.Name)
		}
		if err := checkSHA256(d.SHA256); err != nil {
			return err
		}
	}
	return nil
}

// CheckDocument compares a document with its checksum in the manifest, if that has one. m may be
// nil.
func (m *Manifest) CheckDocument(name string, data []byte) error {
	if m == nil {
		return nil
	}
	for _, d := range m.Documents {
		if got := hexSum(data); d.Name == name && d.SHA256 != got {
			return corrupt("its %s has the SHA-256 %s, its manifest says %s", name, got, d.SHA256)
		}
	}
	return nil
}

// shape returns an image with the extents of the manifest, of zeros.
func (m *Manifest) shape() (*image.Image, error) {
	var extents []image.Extent
	for _, e := range m.Entries {
		extents = append(extents, image.Extent{Off: e.Off, Content: image.Zeros(e.Len)})
	}
	return image.New(m.Size, extents...)
}

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

// CorruptError says that an image is damaged: it does not match its checksums or its format.
type CorruptError struct{ Err error }

func (e *CorruptError) Error() string { return e.Err.Error() }
func (e *CorruptError) Unwrap() error { return e.Err }
func (e *CorruptError) Kind() string  { return fault.Corrupt }

func corrupt(format string, args ...any) error { return &CorruptError{fmt.Errorf(format, args...)} }

// checkZeros returns a *[CorruptError] if data, the bytes at off where the image has no
// content, are not zeros.
func checkZeros(data []byte, off int64, where string) error {
	if image.IsZero(data) {
		return nil
	}
	i := slices.IndexFunc(data, func(b byte) bool { return b != 0 })
	return corrupt("byte %d is %#x, %s", off+int64(i), data[i], where)
}

// noContent says where [checkZeros] was called for an image with a manifest.
const noContent = "where the manifest has no content"

func spans(entries []image.Entry) (all []image.Span) {
	for _, e := range entries {
		all = append(all, image.Span{Off: e.Off, Len: e.Len})
	}
	return all
}

func checkPiece(p image.Entry, data []byte) error {
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != p.SHA256 {
		return corrupt("the piece at byte %d, %d bytes long, is corrupt: its SHA-256 is %x, the manifest says %s", p.Off, p.Len, sum, p.SHA256)
	}
	return nil
}
