package reference

// Environment has the environment variables that the program reads.
var Environment = []Entry{
	{Name: "SOURCE_DATE_EPOCH", Meaning: "seconds since 1970: the time in images, and the latest time of their files (default: a constant)"},
	{Name: "IMGTOOL_CACHE_DIR", Meaning: "directory of the cache of compressed blocks (default: imgtool/blocks in the user's cache directory)"},
	{Name: "IMGTOOL_KEY_PASSPHRASE", Meaning: "passphrase of the private key that signs a bundle, or PIN of its token"},
	{Name: "XDG_CONFIG_HOME", Meaning: "directory of the user's configuration on Linux (default: ~/.config)"},
	{Name: "XDG_CACHE_HOME", Meaning: "the user's cache directory on Linux (default: ~/.cache)"},
	{Name: "TMPDIR", Meaning: "directory of scratch files (default: /tmp)"},
	{Name: "SSH_AUTH_SOCK", Meaning: "socket of the ssh-agent whose keys sign configurations (provision) and images (sign)"},
	{Name: "IMGTOOL_TRUST", Meaning: "file with the signatures that all images must have, in place of /etc/imgtool/trust.toml; empty: none"},
	{Name: "SSH_CONNECTION", Meaning: "on macOS: set in a session over SSH, where no window can ask for the password that opens a disk"},
	{Name: "DOCKER_CONFIG", Meaning: "directory of config.json with logins of registries (default: ~/.docker)"},
	{Name: "REGISTRY_AUTH_FILE", Meaning: "file with logins of registries, if Docker's has none (default: containers/auth.json in XDG_RUNTIME_DIR)"},
	{Name: "NETRC", Meaning: "file with the logins of web servers (default: ~/.netrc)"},
	{Name: "HTTPS_PROXY", Meaning: "proxy for web servers and registries; HTTP_PROXY for http addresses, NO_PROXY for hosts that are reached directly"},
	{Name: "TERM", Meaning: "the terminal: with dumb, progress is printed as lines"},
	{Name: "NO_COLOR", Meaning: "if it is set, progress is printed as lines and nothing is drawn"},
	{Name: "LC_ALL", Meaning: "locale, before LC_CTYPE and LANG: progress is drawn in ASCII unless it is a UTF-8 locale"},
}

// Files has the files that the program reads and writes.
var Files = []Entry{
	{Name: "out/", Meaning: "images that build writes without -o; flash and vm take the newest image in it"},
	{Name: "NAME.manifest.json", Meaning: "beside an image: offset and SHA-256 of all its contents"},
	{Name: "NAME.manifest.json.sig", Meaning: "beside an image that is not an .img.zst: its signature, or with .minisig that of minisign"},
	{Name: "/etc/imgtool/trust.toml", Meaning: "the signatures that all images must have (flash, factory, verify), see IMGTOOL_TRUST"},
	{Name: "NAME.DIGEST.part", Meaning: "beside an image: what an interrupted pull has fetched, for the next one"},
	{Name: "NAME.bmap", Meaning: "beside an image: its block map, which bmaptool reads too"},
	{Name: "~/.cache/imgtool/blocks/", Meaning: "the cache of compressed blocks"},
	{Name: "~/.cache/imgtool/apt-ARCH/", Meaning: "apt's lists for the packages of a board (build, with deb: or the starter)"},
	{Name: "~/.cache/imgtool/deb/", Meaning: "the packages themselves"},
	{Name: "~/.config/imgtool/dev-signing/", Meaning: "key and certificate for development (bundle --dev)"},
	{Name: "~/.docker/config.json", Meaning: "logins of registries, see DOCKER_CONFIG"},
	{Name: "~/.ssh/", Meaning: "keys that sign configurations (provision)"},
	{Name: "/dev/", Meaning: "disks; /dev/loop0 and so on, to find the files attached to them"},
	{Name: "/proc/", Meaning: "which disks and files are mounted, open, locked or used as swap; without it, nothing is flashed"},
	{Name: "/sys/", Meaning: "which disks there are, and what uses them; without it, only regular files are flashed"},
	{Name: "/run/udev/", Meaning: "the file systems that udev found on disks, and whether udev is running"},
	{Name: "/run/systemd/system", Meaning: "whether systemd runs the system (factory --live)"},
	{Name: "/usr/lib/u-boot/qemu_arm64/u-boot.bin", Meaning: "the firmware of the emulated machine (vm), of the package u-boot-qemu"},
	{Name: "/usr/sbin/diskutil", Meaning: "on macOS, with /usr/sbin/ioreg and /usr/bin/hdiutil: which disks there are"},
	{Name: "/usr/libexec/authopen", Meaning: "on macOS: opens a disk after asking for a password"},
	{Name: "/usr/bin/caffeinate", Meaning: "on macOS: keeps the computer awake while a disk is written"},
}
