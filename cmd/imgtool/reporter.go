package main

import "imgtool/image"

// Short names of the reporter's methods.

func (u *ui) say(format string, args ...any)                 { u.Infof(format, args...) }
func (u *ui) warn(message string)                            { u.Warnf("%s", message) }
func (u *ui) phases(name string, total int64) image.Progress { return u.Phase(name, total) }
func (u *ui) endPhase()                                      { u.EndPhase() }
func human(n int64) string                                   { return image.FormatSize(n) }
