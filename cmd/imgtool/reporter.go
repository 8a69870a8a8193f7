package main

import (
	"fmt"

	"imgtool/image"
	"imgtool/image/volume"
)

// The ui is the [progress.Reporter] of the packages that do the work.

func (u *ui) Infof(format string, args ...any)              { u.say(format, args...) }
func (u *ui) Warnf(format string, args ...any)              { u.warn(fmt.Sprintf(format, args...)) }
func (u *ui) Phase(name string, total int64) image.Progress { return u.phases(name, total) }
func (u *ui) EndPhase()                                     { u.endPhase() }

// opening is how commands open images.
func (u *ui) opening() volume.Options {
	return volume.Options{Stdin: u.in, Scratch: &u.unpacked, Reporter: u}
}
