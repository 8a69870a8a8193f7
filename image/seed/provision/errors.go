package provision

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"

	"imgtool/image/fault"
)

// GoneError reports a device that does not answer.
type GoneError struct {
	Address string
	Err     error
	sent    bool // the device may have received the request
}

func (e *GoneError) Error() string { return e.Address + " does not answer: " + connectionError(e.Err) }
func (e *GoneError) Unwrap() error { return e.Err }
func (e *GoneError) Kind() string  { return fault.Gone }

// connectionError returns the reason of a failed connection without the request's URL:
// the paths of jobs are secret.
func connectionError(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var number syscall.Errno
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &number):
		return number.Error()
	case errors.As(err, &dns):
		return dns.Err
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		return "timed out"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection"
	}
	return err.Error()
}

// OtherError reports a server that is not a device's provisioning service.
type OtherError struct{ Address, Reason string }

func (e *OtherError) Error() string {
	return e.Address + " is not the provisioning service of an AtomixOS device: " + e.Reason
}
func (e *OtherError) Kind() string { return fault.WrongBoard }

// wrongDevice is the error of a device whose identifier, "" for none, is not the required one.
func wrongDevice(address, has, want string) error {
	if has == "" {
		return fault.New(fault.WrongBoard, "%s does not show an identifier; it must be %s", address, want)
	}
	return fault.New(fault.WrongBoard, "%s is the device %s; it must be %s", address, has, want)
}

// RefusedError reports a request that had no effect on the device.
type RefusedError struct {
	Address string
	Status  int // of HTTP, or 0
	Reason  string
}

func (e *RefusedError) Error() string { return e.Address + ": " + e.Reason }
func (e *RefusedError) Kind() string  { return fault.Refused }

// isUnauthorized reports whether a request was refused because it lacks a good signature.
func isUnauthorized(err error) bool {
	var r *RefusedError
	return errors.As(err, &r) && r.Status == http.StatusUnauthorized
}

// BusyError reports a device that runs another job.
type BusyError struct{ Address, Reason string }

func (e *BusyError) Error() string { return e.Address + ": the device is busy: " + e.Reason }
func (e *BusyError) Kind() string  { return fault.Refused }
