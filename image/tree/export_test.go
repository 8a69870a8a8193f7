package tree

// MaxSparse is lowered by the fuzzer, which would otherwise wait for zeros.
var MaxSparse = &maxSparse

// KnownMax is lowered by tests.
var KnownMax = &knownMax

// KnownMin is how many bytes a block has at least that is remembered.
const KnownMin = knownMin

// RecordLen is how many bytes are remembered of a block.
const RecordLen = recordLen

// On every processor, so that tests see it work.
func init() { fasterThanSHA256 = true }
