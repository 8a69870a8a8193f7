//go:build !linux && !darwin

package flash

import "errors"

// Awake knows no way here.
func Awake(why string) (release func(), err error) { return nil, errors.ErrUnsupported }
