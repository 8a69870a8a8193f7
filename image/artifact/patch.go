package artifact

import (
	"context"
	"fmt"
	"io"
	"os"

	"imgtool/image"
)

// Patch saves a raw image without a manifest, which was opened from f, under its own
// name, with the patches written over it. Holes of the file stay holes; its permissions
// and owner are kept. If path is a symbolic link, its target is replaced.
func Patch(ctx context.Context, path string, f *os.File, patches []image.Extent) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	out, _, err := newReplacement(path)
	if err != nil {
		return err
	}
	defer out.Cleanup()
	if err = out.Truncate(info.Size()); err == nil {
		err = copyData(ctx, out.File, f, image.Span{Len: info.Size()})
	}
	for _, e := range patches {
		if err != nil {
			break
		}
		_, err = io.Copy(io.NewOffsetWriter(out.File, e.Off), io.NewSectionReader(e.Content, 0, e.Size()))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", out.path, err)
	}
	if err := checkSameFile(out.path, f); err != nil {
		return err
	}
	return commit(out, nil, nil)
}
