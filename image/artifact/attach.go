package artifact

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"

	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
)

// Names of attachments.
const (
	Signature  = "signature"  // of the manifest
	Minisig    = "minisig"    // of the manifest, by minisign; beside an image only
	SBOM       = "sbom"       // an SPDX document
	Provenance = "provenance" // an in-toto statement
)

// MaxAttachment is the size of the largest attachment, and of all in an image, in bytes.
const MaxAttachment = 64 << 20

// attachmentName matches the names of attachments.
var attachmentName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)

// Attached describes an attachment of an image.
type Attached struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Path   string `json:"path,omitempty"` // of the file beside the image; empty if it is in the image
}

// Attach adds an attachment to the image file at path, or replaces it: in an .img.zst that
// imgtool wrote, beside others. A nil data removes it, also beside an .img.zst. The file at
// path is replaced as a whole, so after a crash it is the old or the new one, and keeps its
// permissions and owner. The content and the manifest stay as they are.
func Attach(ctx context.Context, path, name string, data []byte) error {
	if !attachmentName.MatchString(name) {
		return fmt.Errorf("attachment %.80q: a name has up to 64 lower-case letters, digits, . and -", name)
	}
	if len(data) > MaxAttachment {
		return fmt.Errorf("attachment %s has %d bytes, the limit is %d", name, len(data), MaxAttachment)
	}
	f, err := hostfile.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	s, m, err := openAttachable(io.NewSectionReader(f, 0, info.Size()))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if data != nil {
		listed := m
		if m == nil {
			listed = manifestBeside(path)
		}
		if err := listed.CheckDocument(name, data); err != nil {
			return fmt.Errorf("%s: it cannot be attached: %w", path, err)
		}
	}
	if m == nil || data == nil {
		if err := attachBeside(path, name, data); err != nil {
			return err
		}
	}
	if m == nil {
		return nil
	}
	list := slices.DeleteFunc(slices.Clone(s.attached), func(a attached) bool { return a.name == name })
	if data != nil {
		list = append(list, attached{name: name, data: data})
	}
	if data == nil && len(list) == len(s.attached) {
		return nil
	}
	total := int64(0)
	for _, a := range list {
		total += a.size()
	}
	if total > MaxAttachment {
		return fmt.Errorf("%s: all attachments together would have %d bytes, the limit is %d", path, total, MaxAttachment)
	}
	slices.SortFunc(list, func(a, b attached) int { return cmp.Compare(a.name, b.name) })
	return rewrite(path, f, nil, func(out *os.File) error { return s.writeAttached(ctx, out, f, list) })
}

// openAttachable opens an .img.zst with a manifest. For other files, the manifest is nil.
func openAttachable(r image.Content) (*seekable, *Manifest, error) {
	head, err := image.Head(r, headSize)
	if err != nil || detect(head) != Zstd {
		return nil, nil, err
	}
	s, m, err := openSeekable(r)
	if errors.Is(err, ErrStream) {
		err = nil
	}
	return s, m, err
}

// writeAttached writes the file that is open as in with other attachments.
func (s *seekable) writeAttached(ctx context.Context, out, in *os.File, list []attached) error {
	manifest, content, err := s.sumsOf(ctx)
	if err != nil {
		return err
	}
	if err := copyData(ctx, out, in, image.Span{Len: s.end}); err != nil {
		return err
	}
	if err := s.readData(list); err != nil {
		return err
	}
	if _, err := out.Seek(s.end, io.SeekStart); err != nil {
		return err
	}
	buf := bufio.NewWriterSize(out, image.PieceSize)
	t := &frames{w: buf, table: slices.Clone(s.entries)}
	if err := t.end(manifest, content, list); err != nil {
		return err
	}
	return buf.Flush()
}

// sumsOf returns the sums of the manifest and of the content. Files of the first versions have
// none, so they are computed.
func (s *seekable) sumsOf(ctx context.Context) (manifest, content []byte, err error) {
	if s.sums != nil {
		return s.sums[0].want, s.sums[1].want, nil
	}
	var sums [2][]byte
	for i, parts := range [][]image.Span{{s.manifest}, {{Len: s.manifest.Off}, {Off: s.manifest.End(), Len: s.end - s.manifest.End()}}} {
		if sums[i], _, err = s.sum(ctx, parts, nil); err != nil {
			return nil, nil, err
		}
	}
	return sums[0], sums[1], nil
}

// attached is an attachment in an .img.zst.
type attached struct {
	name string
	span image.Span // of the data in the file
	data []byte     // nil: read it from the span
}

func (a *attached) size() int64 {
	if a.data != nil {
		return int64(len(a.data))
	}
	return a.span.Len
}

// The data of the frame of an attachment are the length of its name in one byte, the name, and
// the attachment.
func (a *attached) frame() []byte {
	return skippable(skippableAttachment, slices.Concat([]byte{byte(len(a.name))}, []byte(a.name), a.data))
}

// parseAttached returns the attachment that begins with head: a frame of n bytes at offset at
// of a file.
func parseAttached(head []byte, at, n int64) (*attached, error) {
	bad := func() (*attached, error) {
		return nil, corrupt("the frame of %d bytes at byte %d of the file is no attachment", n, at)
	}
	if n < 9 || int64(len(head)) < min(n, maxAttachedHead) {
		return bad()
	}
	size := int64(binary.LittleEndian.Uint32(head[4:]))
	k := int64(head[8])
	if binary.LittleEndian.Uint32(head) != skippableAttachment || size != n-8 || 1+k > size || 9+k > int64(len(head)) {
		return bad()
	}
	name := string(head[9 : 9+k])
	if !attachmentName.MatchString(name) || n-9-k > MaxAttachment {
		return bad()
	}
	return &attached{name: name, span: image.Span{Off: at + 9 + k, Len: n - 9 - k}}, nil
}

// maxAttachedHead is the size of the longest head of the frame of an attachment.
const maxAttachedHead = 9 + 64

// readList reads which attachments the frames have. They are in order of their names.
func (s *seekable) readList(list []frame) error {
	at, total := s.end, int64(0)
	for i, f := range list {
		if f.packed != at {
			return corrupt("the table has a frame without data between others, at byte %d of the file", f.packed)
		}
		at += f.packedLen
		head := make([]byte, min(f.packedLen, maxAttachedHead))
		if _, err := image.ReadFull(s.r, head, f.packed); err != nil {
			return err
		}
		a, err := parseAttached(head, f.packed, f.packedLen)
		if err != nil {
			return err
		}
		if total += a.size(); total > MaxAttachment {
			return corrupt("its attachments have more than the limit of %d bytes", MaxAttachment)
		}
		if i > 0 && s.attached[i-1].name >= a.name {
			return corrupt("the attachments %s and %s are not in order", s.attached[i-1].name, a.name)
		}
		s.attached = append(s.attached, *a)
	}
	return nil
}

// readData reads the data of those attachments that do not have it.
func (s *seekable) readData(list []attached) (err error) {
	for i := range list {
		if list[i].data == nil {
			if list[i].data, err = s.readAttached(list[i].span); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *seekable) readAttached(at image.Span) ([]byte, error) {
	b := make([]byte, at.Len)
	_, err := image.ReadFull(s.r, b, at.Off)
	return b, err
}

// Attachments describes the attachments in the image, in order of their names.
func (o *Opened) Attachments() (all []Attached, err error) {
	s, ok := o.raw.(*seekable)
	if !ok {
		return nil, nil
	}
	for _, a := range s.attached {
		data, err := s.readAttached(a.span)
		if err != nil {
			return nil, err
		}
		all = append(all, Describe(a.name, data))
	}
	return all, nil
}

// Describe describes an attachment in an image.
func Describe(name string, data []byte) Attached {
	return Attached{Name: name, Size: int64(len(data)), SHA256: fmt.Sprintf("%x", sha256.Sum256(data))}
}

// Attachment returns an attachment in the image. Without one the error is [fs.ErrNotExist].
func (o *Opened) Attachment(name string) ([]byte, error) {
	if s, ok := o.raw.(*seekable); ok {
		for _, a := range s.attached {
			if a.name == name {
				data, err := s.readAttached(a.span)
				return data, cmp.Or(err, o.Manifest.CheckDocument(name, data))
			}
		}
	}
	return nil, noAttachment(name)
}

func noAttachment(name string) error {
	return fault.New(fault.Input, "it has no %s: %w", name, fs.ErrNotExist)
}
