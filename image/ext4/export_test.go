package ext4

// Hash is what the index of a folder sorts names by.
var Hash = hash
