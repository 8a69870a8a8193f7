package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"imgtool/image/remote"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Options are how a registry is used.
type Options struct {
	Network remote.Network
	Push    bool // ask for the right to push, too
}

// Open logs in to the registry of a repository with the logins of the user. It uses HTTP
// without TLS only if the name of the registry allows it, and TLS does not work.
func Open(ctx context.Context, in name.Repository, opt Options) (*Client, error) {
	c, err := login(ctx, in, opt)
	if err != nil {
		return nil, explain(in.RegistryStr(), err)
	}
	return c, nil
}

// login finds out the scheme and the authentication of a registry, and gets a token if it uses
// tokens.
func login(ctx context.Context, in name.Repository, opt Options) (*Client, error) {
	reg := in.Registry
	w := remote.NewTransport(opt.Network)
	repo := &Client{scheme: "https", repo: in, wire: w}
	auth, err := userLogin(ctx, in)
	if err != nil {
		return repo, err
	}
	how, err := transport.Ping(ctx, reg, w)
	if err != nil {
		// TLS was tried first; the error of plain HTTP explains more.
		if plain := w.PlainError(); plain != nil && ctx.Err() == nil {
			err = plain
		}
		if bad := w.CertificateError(); bad != nil {
			err = bad
		}
		return repo, err
	}
	if how.Insecure {
		repo.scheme = "http"
	}
	scopes := []string{in.Scope(transport.PullScope)}
	if opt.Push {
		scopes = []string{in.Scope(transport.PushScope)} // "push,pull"
	}
	token, final := &transport.Token{}, how
	if strings.EqualFold(how.Scheme, "bearer") {
		service, login, err := tokenService(ctx, reg, how, auth)
		if err != nil {
			return repo, err
		}
		// Tokens are renewed in the same way.
		auth = &tokens{func(ctx context.Context) (*transport.Token, error) {
			token, err := transport.Exchange(ctx, service, login, w, scopes, how)
			if err != nil {
				err = fmt.Errorf("getting a token from %s: %w", how.Parameters["realm"], explain(service.RegistryStr(), err))
			}
			return token, err
		}}
		if token, err = auth.(*tokens).exchange(ctx); err != nil {
			return repo, err
		}
		own := *how
		own.Parameters = maps.Clone(how.Parameters)
		own.Parameters["realm"] = repo.scheme + "://" + reg.RegistryStr()
		final = &own
	}
	repo.http = &http.Client{}
	repo.http.Transport, err = transport.FromToken(reg, auth, transport.NewUserAgent(w, ""), final, token)
	return repo, err
}

// missingHelper matches the error of a program for logins that is not installed, which does not
// wrap that of package exec.
var missingHelper = regexp.MustCompile(`exec: "(docker-credential-[^"]+)": executable file not found`)

// userLogin returns the login that the user's configuration has for a registry.
func userLogin(ctx context.Context, at authn.Resource) (authn.Authenticator, error) {
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, at)
	if err != nil {
		if m := missingHelper.FindStringSubmatch(err.Error()); m != nil {
			return nil, fmt.Errorf("the configuration of your logins names the program %s, which is not installed: install it, or remove it from credsStore and credHelpers in Docker's config.json", m[1])
		}
		return nil, fmt.Errorf("reading your logins: %w", err)
	}
	return auth, nil
}

// tokenService returns the service that issues the tokens of a registry, and the login for it.
//
// The login of the registry is sent to another host only with TLS. A service on this machine or
// a private network is used only by registries there; if it is not the registry itself, it gets
// its own login from the user's configuration.
func tokenService(ctx context.Context, reg name.Registry, how *transport.Challenge, auth authn.Authenticator) (name.Registry, authn.Authenticator, error) {
	realm := how.Parameters["realm"]
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" || u.User != nil {
		return reg, nil, fmt.Errorf("%s requires a token from %q, which is not a valid URL", reg.RegistryStr(), realm)
	}
	switch {
	case u.Host == reg.RegistryStr():
		return reg, auth, nil
	case isLocal(u.Hostname()):
		if own, err := url.Parse("//" + reg.RegistryStr()); err != nil || !isLocal(own.Hostname()) {
			return reg, nil, fmt.Errorf("%s requires a token from %s, which is on this machine or a private network", reg.RegistryStr(), u.Host)
		}
		service, err := name.NewRegistry(u.Host, name.WeakValidation)
		if err != nil {
			return reg, nil, err
		}
		login, err := userLogin(ctx, service)
		return service, login, err
	case u.Scheme != "https" && auth != authn.Anonymous:
		return reg, nil, fmt.Errorf("%s requires sending its login to %s without encryption", reg.RegistryStr(), u.Host)
	}
	return reg, auth, nil
}

// isLocal reports whether a host is this machine or on a private network.
func isLocal(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	a = a.Unmap()
	return err == nil && (a.IsLoopback() || a.IsPrivate())
}

// tokens is an authenticator that requests a token when it is needed.
type tokens struct {
	exchange func(context.Context) (*transport.Token, error)
}

func (t *tokens) Authorization() (*authn.AuthConfig, error) {
	return t.AuthorizationContext(context.Background())
}

func (t *tokens) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	token, err := t.exchange(ctx)
	if err != nil {
		return nil, err
	}
	if token.AccessToken != "" {
		token.Token = token.AccessToken
	}
	if token.Token == "" {
		return nil, errors.New("the response has no token")
	}
	return &authn.AuthConfig{RegistryToken: token.Token}, nil
}
