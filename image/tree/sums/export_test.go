package sums

// MemoMax is lowered by tests.
var MemoMax = &knownMax

// MemoMin is how many bytes a block has at least that is remembered.
const MemoMin = knownMin

// RecordLen is how many bytes are remembered of a block.
const RecordLen = recordLen

// On every processor, so that tests see it work.
func init() { fasterThanSHA256 = true }
