package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/uuid"

	"imgtool/layouts"
)

// identify sets the build ID, and the digest that all identifiers are derived from. The
// digest covers everything that changes the image except the seed.
func (b *builder) identify(ctx context.Context) error {
	h := sha256.New()
	// All media are included, so that media that are built separately are of one build.
	fmt.Fprintf(h, "imgtool 1\nboard %s\n", layouts.Digest(b.Board.Source))
	for _, m := range b.Board.Media {
		fmt.Fprintf(h, "layout %s\n", layouts.Digest(m.LayoutSource))
		if size := b.Sizes[m.Name]; size != 0 {
			fmt.Fprintf(h, "size %s %d\n", m.Name, size)
		}
		// Changes of the layout since it was read.
		if was, err := layouts.Parse(m.LayoutName, m.LayoutSource); err != nil || !reflect.DeepEqual(was, m.Layout) {
			for _, p := range m.Layout.Partitions {
				fmt.Fprintf(h, "partition %d %q %d %q\n", p.Number, p.Name, p.Size, p.Label)
			}
		}
	}
	for _, t := range b.Board.Trees {
		for _, s := range t.Steps {
			fmt.Fprintf(h, "edits %s\n", layouts.Digest(s.Text))
		}
	}
	if len(b.Board.Trees) > 0 {
		fmt.Fprintf(h, "profile %s\nflags %v\n", b.Profile, b.Flags)
	}
	if len(b.Vars) > 0 {
		fmt.Fprintf(h, "vars %q\n", b.Vars)
	}
	if b.EditsText != nil {
		fmt.Fprintf(h, "edits %x\n", sha256.Sum256(b.EditsText))
	}
	if b.Generalize {
		fmt.Fprintln(h, "generalize")
	}
	if b.clamped {
		fmt.Fprintln(h, "clamped")
	}
	if b.Packed {
		fmt.Fprintln(h, "packed")
	}
	fmt.Fprintf(h, "slots %s\ntime %d\nsquashfs %s %d\ncmdline %s\nbuild-id %s\n",
		b.Slots, b.Time, b.codec, b.squashfs().BlockSize, b.Cmdline, b.BuildID)
	for _, in := range b.inputs {
		fmt.Fprintf(h, "input %s %s\n", in.Name, in.SHA256)
	}
	b.digest = h.Sum(nil)
	if b.buildID = b.BuildID; b.buildID == "" {
		b.buildID = hex.EncodeToString(b.digest[:8])
	}
	if b.root == nil {
		return nil
	}
	return b.starter.Stamp(b.Inputs["rootfs"], b.root.Tree, b.buildID)
}

// derived returns a hash of the digest and a name.
func (b *builder) derived(name string) []byte {
	sum := sha256.Sum256(append(append([]byte{}, b.digest...), name...))
	return sum[:]
}

func (b *builder) uuid(name string) uuid.UUID { return UUID(b.derived(name)) }

// UUID returns a UUID of version 8 (RFC 9562, 5.8) from a hash.
func UUID(hash []byte) uuid.UUID {
	u := uuid.UUID(hash[:16])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return u
}

func (b *builder) guid(name string) string { return strings.ToUpper(b.uuid("guid " + name).String()) }
