package fileinfo

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"imgtool/image/tree"
)

// capNames are the capabilities by number, from linux/capability.h.
var capNames = strings.Fields(`chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
	net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace
	sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write
	audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore`)

// capabilities formats a security.capability as getcap does. The value is a struct
// vfs_cap_data or, with the root user of a namespace, a struct vfs_ns_cap_data.
func capabilities(x tree.Xattr) (string, bool) {
	le, v := binary.LittleEndian, []byte(x.Value)
	if x.Name != "security.capability" || len(v) != 20 && len(v) != 24 || le.Uint32(v)>>24 != uint32(len(v)-12)/4 {
		return "", false
	}
	permitted := uint64(le.Uint32(v[4:])) | uint64(le.Uint32(v[12:]))<<32
	inheritable := uint64(le.Uint32(v[8:])) | uint64(le.Uint32(v[16:]))<<32
	effective := le.Uint32(v)&1 != 0
	var sets []string
	for _, s := range []struct {
		caps  uint64
		flags string
	}{{permitted & inheritable, "ip"}, {permitted &^ inheritable, "p"}, {inheritable &^ permitted, "i"}} {
		var names []string
		for caps := s.caps; caps != 0; caps &= caps - 1 {
			i := bits.TrailingZeros64(caps)
			if i >= len(capNames) {
				names = append(names, fmt.Sprint(i))
			} else {
				names = append(names, "cap_"+capNames[i])
			}
		}
		if len(names) > 0 {
			flags := s.flags
			if effective {
				flags = "e" + flags
			}
			sets = append(sets, strings.Join(names, ",")+"="+flags)
		}
	}
	slices.Sort(sets)
	text := strings.Join(sets, " ")
	if text == "" {
		text = "="
	}
	if len(v) == 24 {
		text += fmt.Sprintf(" [rootid=%d]", le.Uint32(v[20:]))
	}
	return text, true
}
