package sums

// LoadMemo is OpenMemo, but on every processor.
var LoadMemo = loadMemo

const (
	MemoRecord = memoRecord
	MemoMin    = memoMin
	MemoMax    = memoMax
)

// Sum returns the checksum of a block and its CRC-32C.
func (m *Memo) Sum(b []byte) (Sum, uint32) {
	s := m.sum(b)
	return s.sum, s.crc
}
