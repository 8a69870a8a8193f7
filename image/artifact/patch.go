package artifact

import (
	"context"
	"fmt"
	"io"
	"os"

	"imgtool/image"
)

// Patch saves a raw image without a manifest, which was opened from f, under its own name
// with other bytes at the places of the patches. Holes of the file stay holes, and the file
// keeps its mode and owner. If path is a symbolic link, it stays one.
func Patch(ctx context.Context, path string, f *os.File, patches []image.Extent) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	path, _, out, err := replacing(path)
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
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := stillThere(path, f); err != nil {
		return err
	}
	return commit(path, out, nil, nil)
}
