//go:build !linux && !darwin

package flash

import "errors"

// Awake is not supported on this system.
func Awake(why string) (release func(), err error) { return nil, errors.ErrUnsupported }
