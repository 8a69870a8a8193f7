package build

import (
	"context"
	"errors"

	"imgtool/image/source"
)

func (b *builder) openStarterPhoton(ctx context.Context) (*source.Root, error) {
	return nil, errors.New("this board has no starter yet: pass --rootfs")
}
