package artifact

import (
	"fmt"

	"imgtool/image/pending"
)

// Output is a file that does not have its name yet. Commit gives it the name, and Cleanup removes
// it if it has none.
type Output struct{ *pending.File }

// Create creates a file that will replace the one at path, or the target of the link at path. The
// caller must call Cleanup.
func Create(path string) (*Output, error) {
	p, err := pending.Create(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Output{p}, nil
}

// Commit flushes the file and gives it its name. After a power failure the name refers to the old
// or the new file, complete.
func (o *Output) Commit() error {
	if err := o.File.Commit(); err != nil {
		return fmt.Errorf("%s: %w", o.Path, err)
	}
	return nil
}
