package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// busyLoad is the load average from which on others take part in the result.
const busyLoad = 0.5

// machine is where it was measured, and what.
type machine struct {
	CPU         string  `json:"cpu"`
	Cores       int     `json:"cores"`
	Kernel      string  `json:"kernel"`
	Arch        string  `json:"arch"`
	Go          string  `json:"go"` // of the load
	HAProxy     string  `json:"haproxy,omitempty"`
	Appliance   string  `json:"appliance"`
	Commit      string  `json:"commit"`
	LoadAverage float64 `json:"load_average"` // of a minute, before the first measurement
	Root        bool    `json:"root"`
}

func thisMachine(haproxyVersion, applianceBinary string) machine {
	return machine{
		CPU: cpuModel(contents("/proc/cpuinfo")), Cores: runtime.NumCPU(), Kernel: kernelRelease(), Arch: runtime.GOARCH,
		Go: runtime.Version(), HAProxy: haproxyVersion, Appliance: says(applianceBinary, "version"),
		Commit:      says("git", "describe", "--always", "--dirty", "--tags"),
		LoadAverage: firstNumber(contents("/proc/loadavg")), Root: os.Geteuid() == 0 && !inUserNamespace(),
	}
}

// inUserNamespace reports whether our root is another one's ordinary user: the
// first namespace maps all users onto themselves, see user_namespaces(7).
func inUserNamespace() bool {
	return strings.Join(strings.Fields(contents("/proc/self/uid_map")), " ") != "0 0 4294967295"
}

// contents is a file's, or nothing: what is unknown stays empty in the result.
func contents(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(b)
}

// says is the first line a program prints, or nothing.
func says(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// kernelBytes is the memory that the kernel uses for itself: sockets and files,
// stacks, page tables (proc_meminfo(5)). Caches that would give way are not in it.
func kernelBytes() (int64, error) { return parseKernel(contents("/proc/meminfo")) }

func parseKernel(meminfo string) (sum int64, err error) {
	for _, name := range []string{"SUnreclaim", "KernelStack", "PageTables", "Percpu"} {
		n, err1 := kibibytes(meminfo, name)
		sum, err = sum+n, errors.Join(err, err1)
	}
	return sum, err
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	name, _, _ := bytes.Cut(u.Release[:], []byte{0})
	return string(name)
}

// cpuModel reads /proc/cpuinfo, which names no model on arm64.
func cpuModel(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func firstNumber(s string) float64 {
	word, _, _ := strings.Cut(s, " ")
	n, err := strconv.ParseFloat(word, 64)
	if err != nil {
		return 0
	}
	return n
}

// findHAProxy returns its path and version, empty if there is none.
func findHAProxy() (path, version string) {
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, haproxyVersion(says(path, "-v"))
		}
	}
	return "", ""
}

// haproxyVersion picks it out of "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - ...".
func haproxyVersion(line string) string {
	m := regexp.MustCompile(`version (\d+(?:\.\d+)*)`).FindStringSubmatch(line)
	if m == nil {
		return "of unknown version"
	}
	return m[1]
}
