package remote

import (
	"regexp"
	"slices"
	"strings"

	"imgtool/image/fault"
)

// linkHeader matches the first link in a header Link (RFC 8288): a URL, and parameters up to the
// next comma outside of quotes.
var linkHeader = regexp.MustCompile(`^[\s,]*<([^>]*)>((?:[^",]|"[^"]*")*)`)

// linkParameter matches a parameter of a link and its value, in quotes or not.
var linkParameter = regexp.MustCompile(`;\s*([^\s=;,"]+)\s*=\s*(?:"([^"]*)"|([^\s;,"]*))`)

// Next returns the URL of the next page of a list, by the header Link of the first response, or
// "". A page on another server is an error: it would be read with the login of this one.
func (f *File) Next() (string, error) {
	for _, text := range f.links {
		for m := linkHeader.FindStringSubmatch(text); m != nil; m = linkHeader.FindStringSubmatch(text) {
			text = text[len(m[0]):]
			isNext := func(p []string) bool {
				return strings.EqualFold(p[1], "rel") && slices.Contains(strings.Fields(strings.ToLower(p[2]+p[3])), "next")
			}
			if !slices.ContainsFunc(linkParameter.FindAllStringSubmatch(m[2], -1), isNext) {
				continue
			}
			next, err := f.origin.Parse(m[1])
			if err != nil {
				return "", fault.New(fault.Corrupt, "the server states a next page that is not a valid URL: %.80q", m[1])
			}
			if !strings.EqualFold(next.Host, f.origin.Host) {
				return "", fault.New(fault.Refused, "the server states a next page on another server, %s: this is refused", next.Host)
			}
			next.Scheme, next.User = f.origin.Scheme, nil // a server behind a proxy may not know that it is reached with https
			return next.String(), nil
		}
	}
	return "", nil
}
