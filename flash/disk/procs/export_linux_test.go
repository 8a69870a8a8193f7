package procs

// MountedIn is MountedAt for processes in another directory than /proc.
var MountedIn = mountedAt
