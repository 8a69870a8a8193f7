package xz

import (
	"encoding/binary"
	"io"
)

// Filters of a block (section 5.3 of the format).
const (
	filterDelta = 0x03
	filterX86   = 0x04
	filterPPC   = 0x05
	filterIA64  = 0x06
	filterARM   = 0x07
	filterThumb = 0x08
	filterSPARC = 0x09
	filterARM64 = 0x0A
	filterRISCV = 0x0B
	filterLZMA2 = 0x21
)

type filter struct {
	id    uint64
	props []byte
}

// converter makes the absolute addresses in b relative. b[0] is at offset pos of the data.
// It returns how many bytes are final; the others must be passed again with the bytes after
// them.
type converter func(b []byte, pos uint32) int

// branches has the converters of branch, call and jump instructions, and the alignment of
// the start offset in their properties.
var branches = map[uint64]struct {
	align uint32
	make  func() converter
}{
	filterX86:   {1, newX86},
	filterPPC:   {4, stateless(4, ppc)},
	filterIA64:  {16, stateless(16, ia64)},
	filterARM:   {4, stateless(4, arm)},
	filterThumb: {2, func() converter { return thumb }},
	filterSPARC: {4, stateless(4, sparc)},
	filterARM64: {4, stateless(4, arm64)},
	filterRISCV: {2, func() converter { return riscv }},
}

func (f filter) valid() bool {
	if f.id == filterDelta {
		return len(f.props) == 1
	}
	return len(f.props) == 0 || len(f.props) == 4 && binary.LittleEndian.Uint32(f.props)%branches[f.id].align == 0
}

func (f filter) undo(r io.Reader) io.Reader {
	if f.id == filterDelta {
		return &delta{r: r, last: make([]byte, int(f.props[0])+1)}
	}
	b := &branch{r: r, convert: branches[f.id].make()}
	if len(f.props) == 4 {
		b.pos = binary.LittleEndian.Uint32(f.props)
	}
	return b
}

// delta adds to every byte the byte at a fixed distance before it.
type delta struct {
	r    io.Reader
	last []byte // ring buffer of the preceding bytes
	at   int
}

func (d *delta) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	for i := range p[:n] {
		p[i] += d.last[d.at]
		d.last[d.at] = p[i]
		d.at = (d.at + 1) % len(d.last)
	}
	return n, err
}

type branch struct {
	r       io.Reader
	convert converter
	pos     uint32 // offset of the first byte that is not converted

	buf  []byte
	from int // buf[from:done] has been converted and not returned yet
	done int
	err  error
}

const branchBuffer = 32 << 10

func (b *branch) Read(p []byte) (int, error) {
	for b.from == b.done {
		if b.err != nil {
			return 0, b.err
		}
		b.fill()
	}
	n := copy(p, b.buf[b.from:b.done])
	b.from += n
	return n, nil
}

// fill reads and converts more data. The encoder does not convert incomplete instructions at
// the end of a block either.
func (b *branch) fill() {
	if b.buf == nil {
		b.buf = make([]byte, 0, branchBuffer)
	}
	left := copy(b.buf[:cap(b.buf)], b.buf[b.done:])
	n, err := b.r.Read(b.buf[left:cap(b.buf)])
	b.buf, b.from, b.err = b.buf[:left+n], 0, err
	b.done = b.convert(b.buf, b.pos)
	b.pos += uint32(b.done)
	if err != nil {
		b.done = len(b.buf)
	}
}

// stateless returns a converter that applies one to each size bytes.
func stateless(size int, one func(b []byte, pos uint32)) func() converter {
	return func() converter {
		return func(b []byte, pos uint32) int {
			i := 0
			for ; i+size <= len(b); i += size {
				one(b[i:i+size], pos+uint32(i))
			}
			return i
		}
	}
}

// ppc: bl, with its 24-bit target.
func ppc(b []byte, pos uint32) {
	if v := binary.BigEndian.Uint32(b); v&0xFC000003 == 0x48000001 {
		binary.BigEndian.PutUint32(b, 0x48000001|(v-pos)&0x03FFFFFC)
	}
}

// arm: BL without a condition.
func arm(b []byte, pos uint32) {
	if v := binary.LittleEndian.Uint32(b); v>>24 == 0xEB {
		to := (v<<2 - (pos + 8)) >> 2
		binary.LittleEndian.PutUint32(b, 0xEB<<24|to&0xFFFFFF)
	}
}

// arm64: BL, and ADRP within 512 MiB.
func arm64(b []byte, pos uint32) {
	v := binary.LittleEndian.Uint32(b)
	switch {
	case v>>26 == 0x25:
		binary.LittleEndian.PutUint32(b, 0x94000000|(v-pos>>2)&0x03FFFFFF)
	case v&0x9F000000 == 0x90000000:
		from := v>>29&3 | v>>3&0x001FFFFC
		if (from+0x00020000)&0x001C0000 != 0 {
			return
		}
		to := from - pos>>12
		v = v&0x9000001F | to&3<<29 | to&0x0003FFFC<<3 | -(to&0x00020000)&0x00E00000
		binary.LittleEndian.PutUint32(b, v)
	}
}

// sparc: call, within 8 MiB of words.
func sparc(b []byte, pos uint32) {
	v := binary.BigEndian.Uint32(b)
	if v>>22 == 0x100 || v>>22 == 0x1FF {
		to := (v<<2 - pos) >> 2
		to = (0-(to>>22&1))<<22&0x3FFFFFFF | to&0x3FFFFF | 0x40000000
		binary.BigEndian.PutUint32(b, to)
	}
}

// ia64: br.call in bundles of three slots of 41 bits.
func ia64(b []byte, pos uint32) {
	slots := [32]byte{16: 4, 17: 4, 18: 6, 19: 6, 22: 7, 23: 7, 24: 4, 25: 4, 28: 4, 29: 4}[b[0]&0x1F]
	for slot := range 3 {
		if slots>>slot&1 == 0 {
			continue
		}
		bit := 5 + 41*slot
		at, shift := bit/8, bit%8
		var six [8]byte
		copy(six[:6], b[at:])
		whole := binary.LittleEndian.Uint64(six[:])
		v := whole >> shift
		if v>>37&0xF != 5 || v>>9&7 != 0 {
			continue
		}
		from := uint32(v>>13&0xFFFFF) | uint32(v>>36&1)<<20
		to := (from<<4 - pos) >> 4
		v &^= 0x8FFFFF << 13
		v |= uint64(to&0xFFFFF)<<13 | uint64(to&0x100000)<<(36-20)
		whole = whole&(1<<shift-1) | v<<shift
		binary.LittleEndian.PutUint64(six[:], whole)
		copy(b[at:at+6], six[:6])
	}
}

// thumb: BL as two halves.
func thumb(b []byte, pos uint32) int {
	i := 0
	for ; i+4 <= len(b); i += 2 {
		if b[i+1]&0xF8 != 0xF0 || b[i+3]&0xF8 != 0xF8 {
			continue
		}
		from := (uint32(b[i+1])&7)<<19 | uint32(b[i])<<11 | (uint32(b[i+3])&7)<<8 | uint32(b[i+2])
		to := (from<<1 - (pos + uint32(i) + 4)) >> 1
		b[i+1], b[i] = 0xF0|byte(to>>19)&7, byte(to>>11)
		b[i+3], b[i+2] = 0xF8|byte(to>>8)&7, byte(to)
		i += 2
	}
	return i
}

// newX86 converts CALL and JMP (E8, E9), with the heuristic of the encoder for bytes that are
// not opcodes: mask has a bit for each preceding byte that looked like one.
func newX86() converter {
	var mask uint32
	last := ^uint32(4) // offset of the last opcode
	return func(b []byte, pos uint32) int {
		extreme := func(x byte) bool { return x == 0 || x == 0xFF }
		if len(b) < 5 {
			return 0
		}
		if pos-last > 5 {
			last = pos - 5
		}
		i := 0
		for limit := len(b) - 5; i <= limit; {
			if b[i] != 0xE8 && b[i] != 0xE9 {
				i++
				continue
			}
			off := pos + uint32(i) - last
			if last = pos + uint32(i); off > 5 {
				mask = 0
			} else {
				for range off {
					mask = mask & 0x77 << 1
				}
			}
			if x := b[i+4]; !extreme(x) || mask>>1 > 4 || mask>>1 == 3 {
				if i++; extreme(x) {
					mask |= 0x11
				} else {
					mask |= 0x01
				}
				continue
			}
			from := binary.LittleEndian.Uint32(b[i+1:])
			var to uint32
			for {
				to = from - (pos + uint32(i) + 5)
				if mask == 0 {
					break
				}
				shift := []uint32{0, 1, 2, 2, 3}[mask>>1] * 8
				if !extreme(byte(to >> (24 - shift))) {
					break
				}
				from = to ^ (1<<(32-shift) - 1)
			}
			to = to&0x01FFFFFF | -(to & 0x01000000)
			binary.LittleEndian.PutUint32(b[i+1:], to)
			i += 5
			mask = 0
		}
		return i
	}
}

// riscv: JAL, and AUIPC with the instruction after it.
func riscv(b []byte, pos uint32) int {
	i := 0
	for i+8 <= len(b) {
		v := uint32(b[i])
		switch {
		case v == 0xEF: // JAL
			b1 := uint32(b[i+1])
			if b1&0x0D != 0 { // only x1 and x5 are converted
				i += 2
				continue
			}
			b2, b3 := uint32(b[i+2]), uint32(b[i+3])
			to := (b1&0xF0<<13 | b2<<9 | b3<<1) - (pos + uint32(i))
			b[i+1] = byte(b1&0x0F | to>>8&0xF0)
			b[i+2] = byte(to>>16&0x0F | to>>7&0x10 | to<<4&0xE0)
			b[i+3] = byte(to>>4&0x7F | to>>13&0x80)
			i += 4
		case v&0x7F == 0x17: // AUIPC
			inst := binary.LittleEndian.Uint32(b[i:])
			next := binary.LittleEndian.Uint32(b[i+4:])
			if inst&0xE80 != 0 { // not converted by the encoder
				if (inst<<8^(next-3))&0xF8003 != 0 { // the next instruction does not use its result
					i += 6
					continue
				}
				addr := inst&0xFFFFF000 + next>>20
				binary.LittleEndian.PutUint32(b[i:], 0x17|2<<7|next<<12)
				binary.LittleEndian.PutUint32(b[i+4:], addr)
				i += 8
				continue
			}
			rs1 := inst >> 27
			if (inst-0x3117)<<18 >= rs1&0x1D {
				i += 4
				continue
			}
			addr := binary.BigEndian.Uint32(b[i+4:]) - (pos + uint32(i))
			binary.LittleEndian.PutUint32(b[i:], 0x17|rs1<<7|(addr+0x800)&0xFFFFF000)
			binary.LittleEndian.PutUint32(b[i+4:], inst>>12|addr<<20)
			i += 8
		default:
			i += 2
		}
	}
	return i
}
