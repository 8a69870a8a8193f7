//go:build !linux

package artifact

import (
	"errors"
	"os"
)

func openDirect(*os.File) (*os.File, error) { return nil, errors.ErrUnsupported }
