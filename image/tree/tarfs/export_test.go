package tarfs

// MaxSparse is lowered by the fuzzer, which would otherwise wait for zeros.
var MaxSparse = &maxSparse
