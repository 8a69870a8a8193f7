package squashfs

// Plain has f write lz4 images that are not compressed, so that tests can change
// what is in them.
func Plain(f func()) {
	for i := range codecs {
		if c := &codecs[i]; c.name == "lz4" {
			was := c.encoder
			defer func() { c.encoder = was }()
			c.encoder = func(int, int) (encoder, error) {
				return func(_, src []byte) ([]byte, error) { return src, nil }, nil
			}
		}
	}
	f()
}

// ZstdMax is the highest level of zstd.
const ZstdMax = zstdMax
