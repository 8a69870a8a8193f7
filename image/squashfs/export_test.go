package squashfs

// Uncompressed returns opt for file systems in which nothing is compressed, so that
// tests can change their bytes.
func Uncompressed(opt Options) Options {
	opt.uncompressed = true
	return opt
}
