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

// refusal is a request that is not followed: a status and the reason.
type refusal struct {
	status int
	reason string
}

func (e *refusal) Error() string { return e.reason }

// answer writes a refusal in the shape that the service on AtomixOS gives it.
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

// refuse answers with a refusal; of any other error only that there was one.
func refuse(w http.ResponseWriter, err error) {
	var r *refusal
	if !errors.As(err, &r) {
		r = internal
	}
	// The rest of the body is not wanted.
	w.Header().Set("Connection", "close")
	r.answer(w)
}

// permission is whose requests a route follows.
type permission int

const (
	signedOnly    permission = iota // an admin's
	signedJob                       // an admin's, which begin a job
	signedOrFirst                   // an admin's; anyone's while there is no configuration
	firstOnly                       // anyone's while there is no configuration
)

// first says whether it is anyone's while there is no configuration.
func (p permission) first() bool { return p == signedOrFirst || p == firstOnly }

// claim is what a request shows of who sent it. It says nothing of what the
// request may do until authorize has seen it.
type claim struct {
	needs  permission
	path   string
	nonce  string
	armour []byte            // the signature
	fault  error             // why the signature cannot be used
	sum    [sha256.Size]byte // of the body
	first  error             // why it cannot be a device's first configuration

	unusable error // what is wrong with the body, for those who may send it
}

// newClaim reads the headers of a request, whose body is taken for empty.
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

// sameOrigin says whether a request may come from a page of somebody else. A
// device without a configuration has no other way to tell its owner's browser from
// one that a foreign page uses.
func sameOrigin(r *http.Request) error {
	own, ok := originOf("http://" + r.Host)
	_, err := netip.ParseAddr(own.Hostname())
	named := slices.Contains([]string{"localhost", "gateway", "atomixos"}, own.Hostname()) || strings.HasSuffix(own.Hostname(), ".local")
	if !ok || err != nil && !named {
		return unauthorized("Host is not allowed before provisioning")
	}
	for _, header := range []string{"Origin", "Referer"} {
		value := r.Header.Get(header)
		if from, ok := originOf(value); value != "" && (!ok || from != own) {
			return unauthorized(header + " is not allowed before provisioning")
		}
	}
	return nil
}

// originOf is the scheme, host and port of a URL, in small letters and with the port that
// is meant if there is none.
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

// screen refuses a request before its body is read if authorize would refuse it
// whatever the body is. It permits nothing.
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

// accepting says whether anything from the network is accepted now. The caller
// holds c.mu.
func (c *Console) accepting(k *claim) error {
	switch {
	case c.booting:
		return &refusal{http.StatusConflict, "the device is starting: it looks for its configuration"}
	case k.needs != signedOnly && c.running():
		return busy
	}
	if err := c.device.Ready(); err != nil {
		return &refusal{http.StatusServiceUnavailable, err.Error()}
	}
	return nil
}

// authorize decides whether a request, whose body is complete, may do what it asks
// for, and returns the active configuration. The caller holds c.mu from before the
// call until it has acted on the answer: the active configuration changes in jobs
// only, and a job begins only under c.mu, so what was true here stays true.
//
// No caller may decide any of this earlier: bodies come as slowly as their senders
// like, and the device may have been provisioned in the meantime.
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

// nonces gives out nonces and knows them again. A nonce is proven by a MAC rather
// than remembered, so that however many are asked for, none pushes out another.
// It begins with the identifier of the device, which is therefore part of what is
// signed: a signature for one device is none for another.
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
	used  map[[32]byte]int64    // with good signatures, and when they were made
	spent map[[32]byte]struct{} // with others
	order [][32]byte            // of spent, oldest first
}

// maxSpent bounds how many nonces are remembered that came with a bad signature. Such a
// request fails again if its nonce is forgotten. Those that came with a good one are an
// admin's, and are remembered until they are too old.
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

// read is a nonce that this service made and that is not too old.
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

// open says whether a nonce can be spent.
func (n *nonces) open(text string) bool {
	b, _, ok := n.read(text)
	n.mu.Lock()
	defer n.mu.Unlock()
	return ok && n.unknown(b)
}

// unknown says whether a nonce was not spent. The caller holds n.mu.
func (n *nonces) unknown(b [32]byte) bool {
	_, used := n.used[b]
	_, spent := n.spent[b]
	return !used && !spent
}

// spend says whether a nonce was open; it is no more. good says whether what it came
// with was signed by an admin, and is only asked if it was open.
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
