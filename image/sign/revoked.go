package sign

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"aead.dev/minisign"
	"golang.org/x/crypto/ssh"
)

// RevokedKeys are keys and certificates whose signatures are not accepted, whoever lists them.
type RevokedKeys struct {
	Name string // of the file, for messages

	keys         map[string]bool // plain keys, in the wire format
	sha1, sha256 map[string]bool // hashes of plain keys
	certs        []revokedCerts
	mini         []minisign.PublicKey
}

// revokedCerts are certificates of an authority.
type revokedCerts struct {
	authority []byte // in the wire format; empty: any
	serials   [][2]uint64
	bitmaps   []bitmap
	ids       map[string]bool
}

type bitmap struct {
	first uint64
	bits  *big.Int
}

// ParseRevoked parses a key revocation list of ssh-keygen -k, or a list of public keys of SSH
// and minisign, one in a line. A line with a fault is an error, since a key would not be revoked.
func ParseRevoked(name string, text []byte) (*RevokedKeys, error) {
	r := &RevokedKeys{Name: name, keys: map[string]bool{}, sha1: map[string]bool{}, sha256: map[string]bool{}}
	if bytes.HasPrefix(text, []byte(krlMagic)) {
		if err := r.parseKRL(text); err != nil {
			return nil, fmt.Errorf("%s: the key revocation list is damaged: %w", name, err)
		}
		return r, nil
	}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line := strings.TrimSpace(string(line))
		if line == "" || line[0] == '#' || strings.HasPrefix(line, minisignBegin) {
			continue
		}
		if key, ok := minisignPublic(line); ok {
			r.mini = append(r.mini, key)
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(options) > 0 {
			return nil, fmt.Errorf("%s:%d: %.80q is not a public key", name, n, line)
		}
		r.keys[string(plainKey(key).Marshal())] = true
	}
	return r, nil
}

// find says what of a key is revoked, or returns "".
func (r *RevokedKeys) find(key ssh.PublicKey) string {
	if r.has(plainKey(key)) {
		return "it is revoked"
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return ""
	}
	if r.has(cert.SignatureKey) {
		return "the authority " + ssh.FingerprintSHA256(cert.SignatureKey) + " of its certificate is revoked"
	}
	if slices.ContainsFunc(r.certs, func(c revokedCerts) bool { return c.has(cert) }) {
		return fmt.Sprintf("its certificate %.80q with serial number %d is revoked", cert.KeyId, cert.Serial)
	}
	return ""
}

func (r *RevokedKeys) has(key ssh.PublicKey) bool {
	wire := key.Marshal()
	short, long := sha1.Sum(wire), sha256.Sum256(wire)
	return r.keys[string(wire)] || r.sha1[string(short[:])] || r.sha256[string(long[:])]
}

func (r *RevokedKeys) hasMinisign(key minisign.PublicKey) bool {
	return slices.ContainsFunc(r.mini, func(k minisign.PublicKey) bool { return k.Equal(key) })
}

func (c *revokedCerts) has(cert *ssh.Certificate) bool {
	if len(c.authority) > 0 && !bytes.Equal(c.authority, cert.SignatureKey.Marshal()) {
		return false
	}
	if c.ids[cert.KeyId] {
		return true
	}
	if cert.Serial == 0 { // a certificate without a serial number
		return false
	}
	return slices.ContainsFunc(c.serials, func(s [2]uint64) bool { return s[0] <= cert.Serial && cert.Serial <= s[1] }) ||
		slices.ContainsFunc(c.bitmaps, func(b bitmap) bool {
			at := cert.Serial - b.first
			return cert.Serial >= b.first && at < uint64(b.bits.BitLen()) && b.bits.Bit(int(at)) == 1
		})
}

// The numbers of OpenSSH's PROTOCOL.krl.
const (
	krlMagic = "SSHKRL\n\x00"

	krlCertificates = 1
	krlKeys         = 2
	krlSHA1         = 3
	krlSignature    = 4
	krlSHA256       = 5

	krlSerials = 0x20
	krlRange   = 0x21
	krlBitmap  = 0x22
	krlKeyID   = 0x23
)

var errShort = errors.New("it is cut short")

// krlReader reads fields, up to the first error.
type krlReader struct {
	b   []byte
	err error
}

func (r *krlReader) take(n uint64) []byte {
	if r.err == nil && n > uint64(len(r.b)) {
		r.err = errShort
	}
	if r.err != nil {
		return make([]byte, min(n, 8))
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *krlReader) byte() byte     { return r.take(1)[0] }
func (r *krlReader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }
func (r *krlReader) string() []byte { return r.take(uint64(binary.BigEndian.Uint32(r.take(4)))) }
func (r *krlReader) more() bool     { return r.err == nil && len(r.b) > 0 }

func (r *RevokedKeys) parseKRL(text []byte) error {
	in := &krlReader{b: text[len(krlMagic):]}
	if v := binary.BigEndian.Uint32(in.take(4)); in.err == nil && v != 1 {
		return fmt.Errorf("its format has the version %d, not 1", v)
	}
	in.take(3 * 8) // version of the list, time, flags
	in.string()    // reserved
	in.string()    // comment
	for in.more() {
		kind := in.byte()
		section := &krlReader{b: in.string()}
		if in.err != nil {
			break
		}
		sets := map[byte]map[string]bool{krlKeys: r.keys, krlSHA1: r.sha1, krlSHA256: r.sha256}
		switch set := sets[kind]; {
		case set != nil:
			for section.more() {
				set[string(section.string())] = true
			}
		case kind == krlCertificates:
			r.parseCertificates(section)
		case kind == krlSignature:
			return nil // the signatures are at the end
		default:
			return fmt.Errorf("it has an unknown section %d", kind)
		}
		if section.err != nil {
			return section.err
		}
	}
	return in.err
}

func (r *RevokedKeys) parseCertificates(in *krlReader) {
	c := revokedCerts{authority: in.string(), ids: map[string]bool{}}
	in.string() // reserved
	for in.more() {
		kind := in.byte()
		s := &krlReader{b: in.string()}
		if in.err != nil {
			return
		}
		switch kind {
		case krlSerials:
			for s.more() {
				n := s.uint64()
				c.serials = append(c.serials, [2]uint64{n, n})
			}
		case krlRange:
			c.serials = append(c.serials, [2]uint64{s.uint64(), s.uint64()})
		case krlBitmap:
			c.bitmaps = append(c.bitmaps, bitmap{s.uint64(), new(big.Int).SetBytes(s.string())})
		case krlKeyID:
			for s.more() {
				c.ids[string(s.string())] = true
			}
		default:
			in.err = fmt.Errorf("it has an unknown section %#x of certificates", kind)
		}
		if s.err != nil {
			in.err = s.err
		}
	}
	r.certs = append(r.certs, c)
}
