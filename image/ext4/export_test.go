package ext4

// Hash is the hash by which the index of a directory is sorted.
var Hash = hash
