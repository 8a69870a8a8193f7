echo "Build ID: golden"

# Saved before anything else is set: a default must not end up in the flash.
setenv ums_why
if test "${START_UMS}" = "1"; then
  setenv START_UMS
  saveenv
  setenv ums_why "START_UMS=1"
fi

if test -z "${BOOT_ORDER}"; then setenv BOOT_ORDER "A B"; fi
if test -z "${BOOT_A_LEFT}"; then setenv BOOT_A_LEFT 3; fi
if test -z "${BOOT_B_LEFT}"; then setenv BOOT_B_LEFT 3; fi
if test -z "${devtype}"; then setenv devtype mmc; fi
if test -z "${devnum}"; then setenv devnum 0; fi
if test -z "${distro_bootpart}"; then setenv distro_bootpart 1; fi
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
