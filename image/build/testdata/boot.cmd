echo "Build ID: golden"

# Saved before anything else is set: a default must not end up in the flash.
setenv ums_why
if test "${START_UMS}" = "1"; then
  setenv START_UMS
  saveenv
  setenv ums_why "START_UMS=1"
fi

if test -z "${devtype}"; then setenv devtype mmc; fi
if test -z "${devnum}"; then setenv devnum 0; fi
if test -z "${distro_bootpart}"; then setenv distro_bootpart 1; fi

# Chosen once: slot_chosen says that this is the chosen slot's script, raucargs that the
# boot method chose.
setenv slot_select bootmeth
if test -n "${ums_why}${slot_chosen}${raucargs}"; then setenv slot_select; fi
# U-Boot's boot method tries a slot with nothing in it, too, and stops there. It gives the
# only slot of BOOT_ORDER its tries back instead.
if test "bootmeth" = "script" -a "${BOOT_ORDER}" = "A B" -a -n "${raucargs}"; then
  if test ! -e ${devtype} ${devnum}:3 boot.scr; then
    setenv BOOT_ORDER A
    saveenv
  fi
fi
# The script keeps what it counts in one sector, 0x1f80 (byte 0x3f0000) of the disk.
# U-Boot's own environment is no place for it: that of Debian's U-Boot for the Rock64 is on
# the SD card, in later versions at sector 0x1fc0 of the disk.
if test "${slot_select}" = "script"; then
  ${devtype} dev ${devnum}
  if ${devtype} read ${kernel_addr_r} 0x1f80 1; then
    if itest.l *${kernel_addr_r} != 0; then env import -c ${kernel_addr_r} 0x200 BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT; fi
  fi
fi
if test -z "${BOOT_ORDER}"; then setenv BOOT_ORDER "A B"; fi
if test -z "${BOOT_A_LEFT}"; then setenv BOOT_A_LEFT 3; fi
if test -z "${BOOT_B_LEFT}"; then setenv BOOT_B_LEFT 3; fi
# slot_state is trial, good or only, and is there for the chosen slot's script.
if test "${slot_select}" = "script"; then
  setenv slot_state
  chosen=
  for round in 1 2; do
    for slot in ${BOOT_ORDER}; do
      left=0
      if test "${slot}" = "A"; then part=1; left=${BOOT_A_LEFT}; fi
      if test "${slot}" = "B"; then part=3; left=${BOOT_B_LEFT}; fi
      if test -z "${chosen}" -a "${left}" != "0"; then
        if test -e ${devtype} ${devnum}:${part} boot.scr; then
          chosen=${slot}
          chosen_part=${part}
          chosen_left=${left}
        fi
      fi
    done
    if test -z "${chosen}"; then
      echo "No slot has tries left: all have 3 again"
      setenv BOOT_A_LEFT 3
      setenv BOOT_B_LEFT 3
    fi
  done
  if test -n "${chosen}"; then
    setenv slot_state only
    for slot in ${BOOT_ORDER}; do
      part=
      if test "${slot}" = "A"; then part=1; fi
      if test "${slot}" = "B"; then part=3; fi
      if test -n "${part}" -a "${slot}" != "${chosen}"; then
        if test -e ${devtype} ${devnum}:${part} boot.scr; then setenv slot_state trial; fi
      fi
    done
    if test "${slot_state}${chosen_left}" = "trialgood"; then setenv slot_state good; fi
  fi
  setenv save_tries 'env export -c -s 0x200 ${kernel_addr_r} BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT && ${devtype} write ${kernel_addr_r} 0x1f80 1'
  if test "${slot_state}" = "trial"; then
    left=2
    if test "${chosen_left}" = "2"; then left=1; fi
    if test "${chosen_left}" = "1"; then left=0; fi
    setenv BOOT_${chosen}_LEFT ${left}
    echo "Slot ${chosen} is on trial; tries left after this one: ${left}"
    if run save_tries; then true; else
      setenv slot_state
      echo "The tries cannot be saved: no slot falls back"
    fi
  fi
  if test "${slot_state}" = "good"; then echo "Slot ${chosen} is good: its boots are not counted"; fi
  if test "${slot_state}" = "only"; then echo "Slot ${chosen} is the only one: its boots are not counted"; fi
  if test -n "${chosen}"; then
    setenv slot_chosen ${chosen}
    if test "${chosen_part}" != "${distro_bootpart}"; then
      setenv distro_bootpart ${chosen_part}
      if load ${devtype} ${devnum}:${distro_bootpart} ${scriptaddr} boot.scr; then source ${scriptaddr}; fi
    fi
  fi
fi

if test -z "${recovery_button_pin}"; then setenv recovery_button_pin 100; fi
if test -z "${recovery_hold_secs}"; then setenv recovery_hold_secs 5; fi
if test -z "${recovery_usb_controller}"; then setenv recovery_usb_controller 0; fi
if test -z "${recovery_mmc_dev}"; then setenv recovery_mmc_dev ${devnum}; fi

# The button pulls the pin low, and "gpio input" succeeds on low.
if test -z "${ums_why}"; then
  if gpio input ${recovery_button_pin}; then
    echo "Recovery button is down: hold it for ${recovery_hold_secs} seconds"
    sleep ${recovery_hold_secs}
    if gpio input ${recovery_button_pin}; then setenv ums_why "recovery button"; fi
  fi
fi
# Upstream's U-Boot has the command, Debian's for the Rock64 has not.
if test "bootmeth" = "script" -a -z "${ums_why}"; then
  if gpio status; then true; else echo "Recovery by the button is not possible: this U-Boot has no gpio command"; fi
fi
if test -n "${ums_why}"; then
  echo "USB mass storage (${ums_why}): flash me from the host"
  if ums ${recovery_usb_controller} mmc ${recovery_mmc_dev}; then reset; fi
  echo "No USB mass storage here: booting on"
fi

if test "${distro_bootpart}" = "3"; then
  setenv distro_rootpart 4
  setenv rauc_slot boot.1
else
  setenv distro_rootpart 2
  setenv rauc_slot boot.0
fi

if test "${board}" = "qemu-arm"; then
  setenv root_disk /dev/vda
  if test "${devtype}" = "nvme"; then setenv root_disk /dev/nvme${devnum}n1p; fi
  if test "${devtype}" = "mmc"; then setenv root_disk /dev/mmcblk${devnum}p; fi
  if test "${devtype}" = "usb"; then setenv root_disk /dev/sda; fi
  if test "${devtype}" = "scsi"; then setenv root_disk /dev/sda; fi
  setenv bootargs_base "console=ttyAMA0"
else
  setenv root_disk /dev/mmcblk1p
  setenv bootargs_base "console=ttyS2,1500000 earlycon=uart8250,mmio32,0xff130000"
  # The default, 0x06000000, collides with the relocated kernel.
  setenv ramdisk_addr_r 0x08000000
fi
# A slot that panics has to come back here.
if test -n "${slot_state}"; then setenv bootargs_base "${bootargs_base} panic=5"; fi
# Where mark-good finds the tries.
if test "bootmeth" = "script" -a -z "${raucargs}"; then setenv bootargs_base "${bootargs_base} imgtool.tries=0x3f0000"; fi
setenv bootargs_base "${bootargs_base} loglevel=7 rootwait root=fstab rw"
setenv bootargs "${bootargs_base} atomixos.lowerdev=${root_disk}${distro_rootpart} atomixos.lowerfstype=squashfs init=/sbin/init quiet rauc.slot=${rauc_slot}"

echo "Booting ${rauc_slot} from ${devtype} ${devnum}:${distro_bootpart}"
setenv missing
if load ${devtype} ${devnum}:${distro_bootpart} ${kernel_addr_r} Image; then
  setenv fdt_used ${fdt_addr}
else
  setenv missing "${missing} Image"
fi
if test "${board}" != "qemu-arm"; then
  if load ${devtype} ${devnum}:${distro_bootpart} ${fdt_addr_r} dtbs/rockchip/rk3328-rock64.dtb; then
    setenv fdt_used ${fdt_addr_r}
  else
    setenv missing "${missing} dtbs/rockchip/rk3328-rock64.dtb"
  fi
fi
# The last to be loaded: booti wants its size.
if load ${devtype} ${devnum}:${distro_bootpart} ${ramdisk_addr_r} initrd; then
  setenv initrd_size ${filesize}
else
  setenv missing "${missing} initrd"
fi
if test -z "${missing}"; then
  booti ${kernel_addr_r} ${ramdisk_addr_r}:${initrd_size} ${fdt_used}
  echo "Boot failed: booti came back"
else
  echo "Boot failed: cannot load${missing}"
fi
# There is another slot. A good one that cannot be booted is on trial from now on.
if test "${slot_state}" = "good"; then
  setenv BOOT_${slot_chosen}_LEFT 3
  if run save_tries; then setenv slot_state trial; fi
fi
if test "${slot_state}" = "trial"; then reset; fi
