package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/pending"
	"imgtool/image/registry"
)

// Download writes the file of the image to w, and verifies its size and digest.
func (i *Image) Download(ctx context.Context, w io.Writer, done image.Progress) error {
	r, err := i.client.Get(ctx, "blobs", i.Layer.Digest.String())
	if err != nil {
		return fmt.Errorf("its layer: %w", err)
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), image.NewReader(ctx, io.LimitReader(r, i.Layer.Size), done))
	if err != nil {
		return err
	}
	wrong := &registry.MismatchError{What: "size", Got: fmt.Sprintf("%d bytes", n), Want: fmt.Sprint(i.Layer.Size)}
	if k, _ := r.Read(make([]byte, 1)); k > 0 {
		wrong.Got = fmt.Sprintf("more than %d bytes", n)
	} else if n == i.Layer.Size {
		if err := registry.Compare("digest", hex.EncodeToString(h.Sum(nil)), i.Layer.Digest); err != nil {
			return fmt.Errorf("its layer: %w", err)
		}
		return nil
	}
	return fmt.Errorf("its layer: %w", wrong)
}

// create creates the file of the image. It is kept when the pull is interrupted, unless another
// pull has it open or it cannot be trusted.
func (p *pull) create() (*pending.File, error) {
	out, err := pending.Continue(p.path, p.image.Layer.Digest.Hex[:12])
	if err == nil {
		return out, nil
	}
	other, otherErr := pending.Create(p.path)
	if otherErr != nil {
		return nil, fmt.Errorf("%s: %w", p.path, otherErr)
	}
	p.opt.Reporter.Warnf("%v: fetching all of the image into another file, which is not kept if this pull is interrupted", err)
	return other, nil
}

// download writes the file of the image to out, after what an earlier pull has left there.
func (p *pull) download(ctx context.Context, out *pending.File) error {
	info, err := out.Stat()
	if err != nil {
		return err
	}
	if have := info.Size(); have > 0 {
		err := p.resume(ctx, out, have)
		if err == nil {
			p.resumed = have
			return nil
		}
		if !errors.As(err, new(*startOverError)) && fault.Kind(err) != fault.Corrupt {
			p.kept(out)
			return err
		}
		p.opt.Reporter.Warnf("%s cannot be continued: %v: starting over", out.Part(), err)
		if err := restart(out); err != nil {
			return err
		}
	}
	err = p.image.Download(ctx, out, p.opt.Reporter.Phase("downloading", p.image.Layer.Size))
	if errors.As(err, new(*registry.MismatchError)) {
		return errors.Join(err, restart(out)) // so that nothing is kept
	}
	if err != nil {
		p.kept(out)
	}
	return err
}

// restart removes the content of a file.
func restart(out *pending.File) error {
	if err := out.Truncate(0); err != nil {
		return err
	}
	_, err := out.Seek(0, io.SeekStart)
	return err
}

// kept tells that the next pull continues a file.
func (p *pull) kept(out *pending.File) {
	if info, err := out.Stat(); err == nil && out.Part() != "" && info.Size() > 0 {
		p.opt.Reporter.Infof("%s has %s of %s: the next pull continues it", out.Part(), image.FormatSize(info.Size()), image.FormatSize(p.image.Layer.Size))
	}
}

// startOverError is why a file cannot be continued.
type startOverError struct{ why string }

func (e *startOverError) Error() string { return e.why }

// overlap is the number of bytes at the end of a file that are fetched again: they differ if the
// file is another, or if the computer lost power while it was written.
const overlap = 64 << 10

// resume fetches what a file lacks, of which an earlier pull has written the first bytes. All of
// it is compared with the digest.
func (p *pull) resume(ctx context.Context, out *pending.File, have int64) error {
	layer := p.image.Layer
	if have > layer.Size {
		return &startOverError{fmt.Sprintf("it has %d bytes, the image has %d", have, layer.Size)}
	}
	h := sha256.New()
	_, err := io.Copy(h, image.NewReader(ctx, io.NewSectionReader(out, 0, have), p.opt.Reporter.Phase("comparing", have)))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return &startOverError{err.Error()}
	}
	if have < layer.Size {
		if err := p.rest(ctx, out, h, have); err != nil {
			return err
		}
	}
	if err := registry.Compare("digest", hex.EncodeToString(h.Sum(nil)), layer.Digest); err != nil {
		return fmt.Errorf("with the rest, %w", err)
	}
	return nil
}

// rest appends what a file lacks, after its last bytes have been compared.
func (p *pull) rest(ctx context.Context, out *pending.File, h hash.Hash, have int64) error {
	f, err := p.image.Open(ctx, nil)
	if err != nil {
		return fmt.Errorf("its layer: %w", err)
	}
	defer f.Close()
	if !f.Ranges() {
		return &startOverError{"the registry does not send ranges"}
	}
	mine := make([]byte, min(have, overlap))
	from := have - int64(len(mine))
	r, err := f.Stream(ctx, from)
	if err != nil {
		return fmt.Errorf("its layer: %w", err)
	}
	defer r.Close()
	theirs := make([]byte, len(mine))
	if _, err := io.ReadFull(r, theirs); err != nil {
		return fmt.Errorf("its layer: %w", err)
	}
	if _, err := out.ReadAt(mine, from); err != nil {
		return err
	}
	if !bytes.Equal(mine, theirs) {
		return &startOverError{"its last bytes are not those of the image"}
	}
	p.opt.Reporter.Infof("continuing %s after %s", out.Part(), image.FormatSize(have))
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return err
	}
	done := p.opt.Reporter.Phase("downloading", p.image.Layer.Size-have)
	_, err = io.Copy(io.MultiWriter(out, h), image.NewReader(ctx, r, done))
	return err
}
