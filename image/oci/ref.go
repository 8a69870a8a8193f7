package oci

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"imgtool/image/fault"
)

// Scheme is what the names of images in registries begin with.
const Scheme = "oci://"

// parse parses HOST/REPOSITORY[:TAG][@DIGEST], also after the scheme. insecure allows HTTP
// without TLS for every host; otherwise it is for this machine and private networks only.
func parse(ref string, insecure bool) (name.Reference, error) {
	var opts []name.Option
	if insecure {
		opts = append(opts, name.Insecure)
	}
	in, err := name.ParseReference(strings.TrimPrefix(ref, Scheme), opts...)
	if err != nil {
		return nil, fault.New(fault.Usage, "%s is not the name of an image in a registry, such as HOST/REPOSITORY:TAG", ref)
	}
	// The library looks for names without a host at Docker Hub.
	text := strings.TrimPrefix(ref, Scheme)
	if host := in.Context().RegistryStr(); host == name.DefaultRegistry && !strings.HasPrefix(text, "docker.io/") && !strings.HasPrefix(text, host+"/") {
		return nil, fault.New(fault.Usage, "%s does not name a registry: write HOST/REPOSITORY:TAG, and for Docker Hub docker.io/%s", ref, text)
	}
	return in, nil
}

// IsReference reports whether a name is that of an image in a registry, with the scheme.
func IsReference(name string) bool { return strings.HasPrefix(name, Scheme) }
