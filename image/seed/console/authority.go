package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"imgtool/image/seed/api"
)

type refusal struct {
	status int
	reason string
}

func (e *refusal) Error() string { return e.reason }

// answer writes the refusal with the JSON shape of AtomixOS's own service.
func (e *refusal) answer(w http.ResponseWriter) {
	switch e.status {
	case http.StatusConflict:
		answer(w, e.status, api.Problem{Error: e.reason})
		return
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "2")
	}
	answer(w, e.status, api.Refusal{StatusCode: e.status, Detail: e.reason})
}

var (
	notFound = &refusal{http.StatusNotFound, "Not Found"}
	internal = &refusal{http.StatusInternalServerError, "Internal Server Error"}
	busy     = &refusal{http.StatusConflict, "another provisioning job is running"}
)

func unauthorized(reason string) error { return &refusal{http.StatusUnauthorized, reason} }

// refuse answers with a refusal. Other errors are answered by status 500, without their text.
func refuse(w http.ResponseWriter, err error) {
	var r *refusal
	if !errors.As(err, &r) {
		r = internal
	}
	// The rest of the body is not read.
	w.Header().Set("Connection", "close")
	r.answer(w)
}

// permission says whose requests a route accepts.
type permission int

const (
	signedOnly    permission = iota // of an admin
	signedJob                       // of an admin, to start a job
	signedOrFirst                   // of an admin, or of anyone before the first configuration
	firstOnly                       // of anyone, only before the first configuration
)

// first reports whether anyone may send the request before the first configuration.
func (p permission) first() bool { return p == signedOrFirst || p == firstOnly }

// claim contains the evidence of a request about its sender. It grants nothing before authorize
// has checked it.
type claim struct {
	needs  permission
	path   string
	nonce  string
	armour []byte            // the armored signature
	fault  error             // why the signature is not usable
	sum    [sha256.Size]byte // of the body
	first  error             // why it cannot be the first configuration

	unusable error // a fault of the body, reported only to authorized senders
}

// newClaim reads the headers of a request. It assumes an empty body.
func newClaim(r *http.Request, needs permission) *claim {
	c := &claim{needs: needs, path: r.URL.Path, nonce: r.Header.Get(api.HeaderNonce), sum: sha256.Sum256(nil), first: sameOrigin(r)}
	signature := r.Header.Get(api.HeaderSignature)
	if c.nonce == "" || signature == "" {
		c.fault = unauthorized("Missing signature headers")
	} else if armour, err := api.Armour(signature); err != nil {
		c.fault = unauthorized("Invalid signature encoding")
	} else {
		c.armour = armour
	}
	return c
}

// sameOrigin returns an error if a request may come from a page of another origin. While the
// device has no configuration, this is its only protection against pages that use a browser in
// its network to provision it.
func sameOrigin(r *http.Request) error {
	if !allowedHost(r) {
		return unauthorized("Host is not allowed before provisioning")
	}
	own, _ := originOf("http://" + r.Host)
	for _, header := range []string{"Origin", "Referer"} {
		value := r.Header.Get(header)
		if from, ok := originOf(value); value != "" && (!ok || from != own) {
			return unauthorized(header + " is not allowed before provisioning")
		}
	}
	return nil
}

// allowedHost reports whether a request was sent to an address, or to a name that no other page can
// have.
func allowedHost(r *http.Request) bool {
	own, ok := originOf("http://" + r.Host)
	_, err := netip.ParseAddr(own.Hostname())
	named := slices.Contains([]string{"localhost", "gateway", "atomixos"}, own.Hostname()) || strings.HasSuffix(own.Hostname(), ".local")
	return ok && (err == nil || named)
}

// originOf returns the scheme, host and port of a URL, in lower case. A missing port is the
// default port of the scheme.
func originOf(s string) (origin url.URL, ok bool) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return origin, false
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(strings.ToLower(u.Hostname()), port)}, true
}

// screen refuses a request before its body is read if authorize would refuse it for any body. It
// grants nothing.
func (c *Console) screen(k *claim) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.accepting(k); err != nil {
		return err
	}
	config, err := c.device.Config()
	switch {
	case err != nil:
		return internal
	case config == nil && k.needs.first():
		return k.first
	case k.needs == firstOnly:
		return notFound
	case k.fault != nil:
		return k.fault
	case !c.nonces.open(k.nonce):
		return unauthorized("Invalid or expired nonce")
	case config == nil:
		return unauthorized("The device is not provisioned")
	case c.device.Known(k.armour) != nil:
		return unauthorized("Signature verification failed")
	}
	return nil
}

// accepting returns an error if no requests are accepted from the network now. The caller holds
// c.mu.
func (c *Console) accepting(k *claim) error {
	switch {
	case c.booting:
		return &refusal{http.StatusConflict, "the device is starting and looks for its configuration"}
	case k.needs != signedOnly && c.running():
		return busy
	}
	if err := c.device.Ready(); err != nil {
		return &refusal{http.StatusServiceUnavailable, err.Error()}
	}
	return nil
}

// authorize decides whether a request with a complete body is permitted, and returns the active
// configuration. The caller must hold c.mu from before the call until it has acted on the result:
// the active configuration changes only in jobs, and jobs start only under c.mu, so that the
// decision stays valid.
//
// The decision must not be made before the body is complete: a sender can delay its body, and the
// device can be provisioned in the meantime.
func (c *Console) authorize(k *claim) ([]byte, error) {
	if err := c.accepting(k); err != nil {
		return nil, err
	}
	config, err := c.device.Config()
	switch {
	case err != nil:
		return nil, internal
	case config == nil && k.needs.first():
		return nil, k.first
	case k.needs == firstOnly:
		return nil, notFound
	case k.fault != nil:
		return nil, k.fault
	}
	open, signed := c.nonces.spend(k.nonce, func() bool {
		return config != nil && c.device.Verify(api.Message(k.nonce, k.path, k.sum), k.armour) == nil
	})
	switch {
	case !open:
		return nil, unauthorized("Invalid or expired nonce")
	case config == nil:
		return nil, unauthorized("The device is not provisioned")
	case !signed:
		return nil, unauthorized("Signature verification failed")
	}
	return config, nil
}

// nonces issues and checks nonces. A nonce carries a MAC and is not stored, so that requesting
// many nonces does not invalidate others. It begins with the identifier of the device, so that a
// signature for one device is not valid for another.
//
//	bytes 0-7    identifier of the device
//	bytes 8-11   seconds since the service started
//	bytes 12-19  random
//	bytes 20-31  HMAC-SHA-256 of the bytes before, cut to 96 bits
type nonces struct {
	id    [api.DeviceIDSize]byte
	key   [32]byte
	start time.Time
	now   func() time.Time

	mu    sync.Mutex
	used  map[[32]byte]int64    // nonces of valid signatures, and their time of issue
	spent map[[32]byte]struct{} // nonces of invalid signatures
	order [][32]byte            // of spent, oldest first
}

// maxSpent is the maximum size of nonces.spent. If such a nonce is forgotten, a repeated request
// still fails by its signature. Nonces of valid signatures come from admins, and are kept until
// they expire.
const maxSpent = 4096

func newNonces(id string, now func() time.Time) *nonces {
	n := &nonces{start: now(), now: now, used: map[[32]byte]int64{}, spent: map[[32]byte]struct{}{}}
	raw, _ := base64.RawURLEncoding.DecodeString(id)
	copy(n.id[:], raw)
	rand.Read(n.key[:])
	return n
}

func (n *nonces) mac(b []byte) []byte {
	h := hmac.New(sha256.New, n.key[:])
	h.Write(b)
	return h.Sum(nil)[:12]
}

func (n *nonces) age() int64 { return int64(n.now().Sub(n.start) / time.Second) }

func (n *nonces) make() string {
	var b [32]byte
	copy(b[:], n.id[:])
	binary.BigEndian.PutUint32(b[8:], uint32(n.age()))
	rand.Read(b[12:20])
	copy(b[20:], n.mac(b[:20]))
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// read decodes a nonce. ok reports whether this service issued it and it has not expired.
func (n *nonces) read(text string) (b [32]byte, made int64, ok bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != len(b) {
		return b, 0, false
	}
	copy(b[:], raw)
	made = int64(binary.BigEndian.Uint32(b[8:]))
	old := n.age() - made
	return b, made, subtle.ConstantTimeCompare(b[20:], n.mac(b[:20])) == 1 && old >= 0 && old <= int64(api.NonceLife/time.Second)
}

// open reports whether a nonce is valid and unused.
func (n *nonces) open(text string) bool {
	b, _, ok := n.read(text)
	n.mu.Lock()
	defer n.mu.Unlock()
	return ok && n.unknown(b)
}

// unknown reports whether a nonce is unused. The caller holds n.mu.
func (n *nonces) unknown(b [32]byte) bool {
	_, used := n.used[b]
	_, spent := n.spent[b]
	return !used && !spent
}

// spend uses up a nonce, and reports whether it was open. good verifies the signature of the
// request, and is only called if the nonce was open.
func (n *nonces) spend(text string, good func() bool) (open, signed bool) {
	b, made, ok := n.read(text)
	if !ok {
		return false, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.unknown(b) {
		return false, false
	}
	if good() {
		oldest := n.age() - int64(api.NonceLife/time.Second)
		maps.DeleteFunc(n.used, func(_ [32]byte, made int64) bool { return made < oldest })
		n.used[b] = made
		return true, true
	}
	if len(n.order) >= maxSpent {
		delete(n.spent, n.order[0])
		n.order = n.order[1:]
	}
	n.spent[b] = struct{}{}
	n.order = append(n.order, b)
	return true, false
}
