package console

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// maxConns is the maximum number of connections. For another one, the connection that has waited
// longest for a complete request is closed, so that clients which hold connections open do not
// block others.
const maxConns = 64

// NewServer returns an HTTP server for a console, with limits for an untrusted network. Its
// listener must come from [Limit].
func NewServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c, ok := r.Context().Value(connKey{}).(*conn); ok {
				c.serve(true)
				defer c.serve(false)
			}
			handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       20 * time.Second, // uploads have other limits
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       15 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
}

type connKey struct{}

// limiter is a net.Listener with a limit for open connections.
type limiter struct {
	net.Listener

	mu    sync.Mutex
	conns []*conn // sorted by when they began to wait for a request
}

// Limit returns a listener that closes waiting connections if there are too many.
func Limit(l net.Listener) net.Listener { return &limiter{Listener: l} }

func (l *limiter) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		own := &conn{Conn: c, l: l}
		l.mu.Lock()
		victim := l.room()
		if len(l.conns) < maxConns {
			l.conns = append(l.conns, own)
			l.mu.Unlock()
			if victim != nil {
				victim.Close()
			}
			return own, nil
		}
		l.mu.Unlock()
		// All connections are serving requests.
		c.Close()
	}
}

// room removes a waiting connection from the list if the list is full, and returns it. The caller
// holds l.mu.
func (l *limiter) room() *conn {
	if len(l.conns) < maxConns {
		return nil
	}
	i := slices.IndexFunc(l.conns, func(c *conn) bool { return !c.serving })
	if i < 0 {
		return nil
	}
	c := l.conns[i]
	l.conns = slices.Delete(l.conns, i, i+1)
	return c
}

// conn is a connection in the list of its listener.
type conn struct {
	net.Conn
	l       *limiter
	serving bool // a handler runs; guarded by l.mu
}

// serve records that a handler starts or ends.
func (c *conn) serve(on bool) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.serving = on
	if i := slices.Index(c.l.conns, c); i >= 0 {
		c.l.conns = append(slices.Delete(c.l.conns, i, i+1), c)
	}
}

func (c *conn) Close() error {
	c.l.mu.Lock()
	c.l.conns = slices.DeleteFunc(c.l.conns, func(other *conn) bool { return other == c })
	c.l.mu.Unlock()
	return c.Conn.Close()
}
