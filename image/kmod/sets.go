package kmod

import "github.com/lastack/lastack/image"

// Base is the set that every machine needs to find its disk, read its
// configuration and reach the console; the others are loaded for the hardware
// that is there.
const Base = "base"

// Sets are the modules of an architecture's image.
func Sets(a image.Arch) []Set {
	if a == image.ARM64 {
		return []Set{base(phyARM64...), watchdogARM64(), storage(storageARM64...), nic(nicARM64...)}
	}
	return []Set{base(), watchdogAMD64(), storage(storageAMD64...), nic(nicAMD64...)}
}

func base(more ...string) Set {
	return Set{Base, append([]string{
		"virtio_pci", "virtio_mmio", "virtio_blk", "virtio_rng",
		// The ESP: code page and character set of Debian's kernels are modules.
		"vfat", "nls_cp437", "nls_ascii", "efivarfs",
		// ext4 asks for crc32c when it mounts, not when it is loaded.
		"crc32c_generic", "ext4",
		// The card gets its filter from tc.
		"sch_ingress", "cls_bpf", "act_gact", "cls_matchall",
		// The power button, which is also how a host shuts a machine down.
		"button", "evdev",
	}, more...)}
}

// phyARM64 are the chips between a board's network controller and its socket.
// They show no modalias: the kernel would ask modprobe for them, which is not
// there, and then drive them without their clock delays.
var phyARM64 = []string{"realtek", "broadcom", "bcm7xxx", "marvell", "marvell10g", "motorcomm"}

func watchdogAMD64() Set {
	return Set{"watchdog", []string{"i6300esb", "lpc_ich", "i2c_i801", "iTCO_wdt", "sp5100_tco", "wdat_wdt", "softdog"}}
}

func watchdogARM64() Set {
	return Set{"watchdog", []string{"i6300esb", "sbsa_gwdt", "wdat_wdt", "bcm2835_wdt", "dw_wdt", "sunxi_wdt", "meson_gxbb_wdt", "softdog"}}
}

func storage(more ...string) Set {
	return Set{"storage", append([]string{
		"nvme", "ahci", "sd_mod", "virtio_scsi",
		"mmc_block", "sdhci_pci", "sdhci_acpi",
		"xhci_pci", "ehci_pci", "usb_storage", "uas", "usbhid", "hid_generic",
		"hv_storvsc", "megaraid_sas", "mpt3sas",
	}, more...)}
}

var (
	storageAMD64 = []string{"vmw_pvscsi", "ata_piix"}
	storageARM64 = []string{
		"ahci_platform", "xhci_plat_hcd", "dw_mmc_rockchip", "sdhci_of_arasan", "sdhci_of_dwcmshc", "sdhci_iproc", "bcm2835", "sdhci_esdhc_imx",
		"sdhci_of_esdhc", "sdhci_xenon_driver", "sunxi_mmc", "meson_gx_mmc", "sdhci_tegra",
		"phy_rockchip_inno_usb2", "phy_rockchip_naneng_combphy", "phy_rockchip_emmc", "phy_rockchip_pcie", "pcie_rockchip_host",
		"reset_raspberrypi", "raspberrypi_cpufreq", "iproc_rng200",
	}
)

// nic is in the order in which drivers are loaded, and so in which cards get
// their names: those of a machine come before those of a hypervisor.
func nic(more ...string) Set {
	return Set{"nic", append([]string{
		"e1000", "e1000e", "igb", "igbvf", "igc", "ixgbe", "ixgbevf", "i40e", "iavf", "ice",
		"r8169", "tg3", "bnxt_en", "mlx4_en", "mlx5_core", "atlantic", "ena", "vmxnet3", "hv_netvsc",
	}, append(more, "virtio_net")...)}
}

var (
	nicAMD64 = []string{"forcedeth", "alx", "8139cp"}
	nicARM64 = []string{
		"genet", "mdio_bcm_unimac", // Raspberry Pi 4
		"dwmac_rk", "dwmac_sun8i", "dwmac_meson8b", "dwmac_generic", "mdio_mux_meson_g12a",
		"mvneta", "mvpp2", "fsl_enetc", "fsl_dpaa2_eth", "fec", "macb",
		"xgene_enet", "nicvf", "nicpf", "hns3", "hclge",
	}
)
